"""What the conditions make of every example, kept on disk and read by memory map.

A cache is a folder for each condition:

    manifest.json     the condition, the data that it read, and the arrays' names, types and shapes; written last
    rows.npy          int32 [n m]: which row of the arrays each of an example's alternatives is (its captions, say)
    counts.npy        int32 [n]: how many alternatives an example has
    NAME.npy          [k ...]: one row for each distinct text or label, or for each view of each image
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.cache.manifest import Unusable, read_manifest, version
from ldm_jax.cache.place import Place
from ldm_jax.conditions import Condition, stack
from ldm_jax.data import Loader
from ldm_jax.files import mapped_array
from ldm_jax.pretrained.writing import write_json
from ldm_jax.processes import barrier

FORMAT = 1
"""The version of the layout above; caches of others are not read."""

CHUNK = 256
"""Distinct rows that are embedded at once."""


class ConditionCache:
    """The arrays of one condition for every example.

    rows: int32 [n m], counts: int32 [n], as in the files; arrays: [k ...] by name; views: 2 where a row is followed by
    that of the mirror image.
    """

    def __init__(self, rows: np.ndarray, counts: np.ndarray, arrays: Mapping[str, np.ndarray], views: int = 1):
        self.rows, self.counts, self.arrays, self.views = rows, counts, arrays, views

    def batch(self, place: Place) -> dict[str, np.ndarray]:
        """The arrays [b ...] of a batch; floats as float32."""
        which = (place.choice % self.counts[place.examples].astype(np.uint64)).astype(np.int64)
        rows = self.rows[place.examples, which] * self.views + place.views(self.views)
        return _widened({name: np.asarray(array[rows]) for name, array in self.arrays.items()})


def cache_condition(folder: Path, condition: Condition, loader: Loader, identity: str) -> ConditionCache:
    """The condition's arrays of all of the loader's examples, from `folder` if it holds these, otherwise made now.

    The first process makes them, the others wait. identity: as for `encode_all`.

    Raises:
      InputError: the condition can't be read from these data.
    """
    rows, counts, distinct = (None, None, None) if _seen(condition) else _annotations(condition, loader)
    wanted = _describe(condition, loader, identity, rows, distinct)
    try:
        return _open(folder, wanted)
    except (Unusable, FileNotFoundError):
        pass
    barrier(f"{condition.name} read")
    if loader.process_index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        if rows is None or counts is None or distinct is None:
            n = len(loader.source)
            rows, counts = np.arange(n, dtype=np.int32)[:, None], np.ones(n, np.int32)
            blocks, total, views = _views(condition, loader), n * (1 + loader.flip), 1 + loader.flip
        else:
            blocks, total, views = _embedded(condition, distinct), len(distinct), 1
        _write(folder, rows, counts, blocks, total, {**wanted, "views": views})
    barrier(f"{condition.name} told")
    return _open(folder, wanted)


def read_condition(condition: Condition, loader: Loader) -> dict[str, np.ndarray]:
    """The condition's arrays [n ...] of a few examples, in memory; of several alternatives the first."""
    if _seen(condition):
        blocks = list(_views(condition, loader))
        found = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    else:
        rows, _, distinct = _annotations(condition, loader)
        embedded = condition.embed(stack(distinct))
        found = {name: np.asarray(value)[rows[:, 0]] for name, value in embedded.items()}
    return _widened(found)


def _seen(condition: Condition) -> bool:
    """Whether what it makes of an example depends on how training sees the image."""
    return not {"image", "paired", "objects"}.isdisjoint(condition.fields)


def _widened(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in arrays.items()}


def _annotations(condition: Condition, loader: Loader) -> tuple[np.ndarray, np.ndarray, list[dict[str, np.ndarray]]]:
    """rows [n m], counts [n] and the distinct arrays that the labels and captions give."""
    places: dict[bytes, int] = {}
    distinct: list[dict[str, np.ndarray]] = []
    each: list[list[int]] = []
    known: dict[Any, list[int]] = {}
    for example in loader.annotations():
        key = example[1:]
        if key not in known:
            own = []
            for arrays in condition.read(example):
                values = {name: np.asarray(value) for name, value in arrays.items()}
                code = b"|".join(value.tobytes() for value in values.values())
                if code not in places:
                    places[code] = len(distinct)
                    distinct.append(values)
                own.append(places[code])
            known[key] = own
        each.append(known[key])
    counts = np.array([len(own) for own in each], np.int32)
    rows = np.zeros((len(each), int(counts.max())), np.int32)
    for i, own in enumerate(each):
        rows[i, : len(own)] = own
    return rows, counts, distinct


def _embedded(condition: Condition, distinct: list[dict[str, np.ndarray]]) -> Iterator[Mapping[str, np.ndarray]]:
    for begin in range(0, len(distinct), CHUNK):
        yield condition.embed(stack(distinct[begin : begin + CHUNK]))


def _views(condition: Condition, loader: Loader) -> Iterator[Mapping[str, np.ndarray]]:
    """What the condition makes of each view of each image, one example at a time."""
    whole = not {"paired", "objects"}.isdisjoint(condition.fields)
    for i in range(len(loader.source)):
        yield condition.embed(stack([condition.read(example)[0] for example in loader.views(i, whole)]))


def _describe(
    condition: Condition, loader: Loader, identity: str, rows: np.ndarray | None, distinct: Any
) -> dict[str, Any]:
    digest = hashlib.sha256()
    if rows is not None:
        digest.update(rows.tobytes())
        for values in distinct:
            digest.update(b"".join(value.tobytes() for value in values.values()))
    transforms = {"shape": list(loader.shape), "flip": loader.flip} if rows is None else {}
    found = {
        "format": FORMAT,
        "data": identity,
        "count": len(loader.source),
        "condition": condition.describe(),
        "read": digest.hexdigest(),
        "transforms": transforms,
    }
    return json.loads(json.dumps(found))


def _write(
    folder: Path,
    rows: np.ndarray,
    counts: np.ndarray,
    blocks: Iterator[Mapping[str, np.ndarray]],
    total: int,
    manifest: Mapping[str, Any],
) -> None:
    files: dict[str, Any] = {}
    done = 0
    for block in blocks:
        for name, value in block.items():
            value = np.asarray(value)
            if name not in files:
                path, shape = folder / f"{name}.npy.tmp", (total, *value.shape[1:])
                files[name] = mapped_array(path, value.dtype, shape)
            files[name][done : done + len(value)] = value
        done += len(next(iter(block.values())))
    for name, value in (("rows", rows), ("counts", counts)):
        files[name] = mapped_array(folder / f"{name}.npy.tmp", value.dtype, value.shape)
        files[name][:] = value
    arrays = {name: {"dtype": str(f.dtype), "shape": list(f.shape)} for name, f in files.items()}
    for name, file in files.items():
        file.flush()
        (folder / f"{name}.npy.tmp").replace(folder / f"{name}.npy")
    write_json(folder / "manifest.json", {**manifest, "arrays": arrays, "created_by": version()})


def _open(folder: Path, wanted: Mapping[str, Any]) -> ConditionCache:
    manifest = read_manifest(folder, wanted)
    try:
        found = {}
        for name, entry in manifest["arrays"].items():
            array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if (str(array.dtype), list(array.shape)) != (entry["dtype"], entry["shape"]):
                raise ValueError(f"{name}.npy is {array.dtype} {array.shape}")
            found[name] = array
        rows, counts = np.array(found.pop("rows")), np.array(found.pop("counts"))
        return ConditionCache(rows, counts, found, int(manifest["views"]))
    except (KeyError, TypeError, ValueError, EOFError, OSError) as error:
        raise Unusable(folder, "files", f"is damaged ({' '.join(str(error).split())})") from error
