"""Where drawn images go: a PNG grid, an .npz, or a folder of PNGs, each filled while they are drawn."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ldm_jax import images
from ldm_jax.data.layout import EXTENSIONS
from ldm_jax.errors import SAVED, InputError
from ldm_jax.files import check_file, check_folder, check_room, whole, write_all

METADATA = "metadata.jsonl"
BLOCK = 4096
"""Bytes that a small file takes at least."""
LARGEST_GRID = 89_000_000
"""Pixels of a picture; programs that open pictures refuse or warn of larger ones."""

UINT8 = {"descr": "|u1", "fortran_order": False}


class SampleMetadata(NamedTuple):
    """What is known of the images beside their pixels."""

    num: int
    first: int
    """Number of the first one; a folder's files are called by their numbers."""
    labels: Sequence[int] | None
    """[num], or None for models without classes."""
    texts: Sequence[str] | None
    """[num]: prompts, or the names of the classes; None where there are neither."""
    settings: Mapping[str, Any]
    """What all of them were drawn with, as `sample.py --again` reads it."""
    class_names: Sequence[str] = ()
    """Of all classes that `labels` count, drawn or not."""

    def of(self, i: int) -> dict[str, Any]:
        """What image `first + i` alone is drawn with."""
        settings = {k: v for k, v in self.settings.items() if k not in ("labels", "prompts")}
        settings |= {"first": self.first + i, "num": 1}
        if self.labels is not None:
            settings["labels"] = [int(self.labels[i])]
        if self.settings.get("prompts") is not None and self.texts is not None:
            settings["prompts"] = [self.texts[i]]
        return settings

    def row(self, i: int, name: str) -> dict[str, Any]:
        """The line of metadata.jsonl for image `first + i`, which is the file `name`."""
        row: dict[str, Any] = {"file_name": name}
        if self.labels is not None:
            row["label"] = int(self.labels[i])
        return row | {"text": "" if self.texts is None else self.texts[i]}


def check_output(path: Path, *, overwrite: bool) -> None:
    """InputError where nothing could be written at `path`, or what is there would be lost; asked before drawing.

    A folder's older pictures are only replaced with `overwrite`, and only those that `write_output` wrote.
    """
    if path.suffix:
        if path.suffix not in (".png", ".npz"):
            raise InputError(f"out: {path} must end in .png or .npz, or name a folder")
        check_file(path, (".png", ".npz"), overwrite=overwrite)
        return
    check_folder(path)
    ours, others = _older(path)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InputError(f"out: {path} holds other pictures ({others[0].name}{more}); name a new or empty folder")
    if ours and not overwrite:
        raise InputError(
            f"out: {path} holds pictures that were drawn before; name a new folder, or add --overwrite to replace them"
        )


def check_size(path: Path, num: int, shape: tuple[int, int, int], columns: int) -> None:
    """InputError where `num` images [h w c] are too many for a picture, or for the disk."""
    h, w, c = shape
    if path.suffix == ".png" and num * h * w > LARGEST_GRID:
        columns = min(columns, num)
        size = f"{columns * w:,} x {-(-num // columns) * h:,}"
        raise InputError(f"out: a picture of {num:,} images would have {size} pixels; name an .npz or a folder")
    check_room(path, num * (h * w * c + (0 if path.suffix else BLOCK)))


def write_output(
    path: Path, batches: Iterable[UInt8[np.ndarray, "b h w c"]], metadata: SampleMetadata, columns: int
) -> Path:
    """Writes images as they are drawn, and returns the path.

    .png: one grid, `columns` to a row. .npz: arr_0 uint8 [n h w c]; with classes label [n] and class_names [k], with
    texts captions [n]. A folder: 000000.png and on, and metadata.jsonl with file_name, label and text of each, so that
    the folder is a data source; what is there when drawing is interrupted is complete in itself. PNGs tell how they
    were drawn.

    Raises:
      KeyboardInterrupt: drawing was interrupted; for a folder it says how many pictures are there.
    """
    if path.suffix == ".png":
        drawn = np.concatenate(list(batches))
        images.write_png(path, images.grid(drawn, min(columns, len(drawn))), settings=metadata.settings)
    elif path.suffix == ".npz":
        _write_archive(path, batches, metadata)
    else:
        _write_folder(path, batches, metadata)
    return path


def _write_archive(path: Path, batches: Iterable[UInt8[np.ndarray, "b h w c"]], metadata: SampleMetadata) -> None:
    others: dict[str, np.ndarray] = {"parameters": np.asarray(json.dumps(metadata.settings))}
    if metadata.labels is not None:
        others["label"] = np.asarray(metadata.labels, np.int32)
        others |= {"class_names": np.asarray(metadata.class_names)} if metadata.class_names else {}
    if metadata.texts is not None:
        others["captions"] = np.asarray(metadata.texts)
    with whole(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            for k, batch in enumerate(batches):
                if k == 0:
                    np.lib.format.write_array_header_1_0(file, {**UINT8, "shape": (metadata.num, *batch.shape[1:])})
                file.write(np.ascontiguousarray(batch).tobytes())
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _write_folder(path: Path, batches: Iterable[UInt8[np.ndarray, "b h w c"]], metadata: SampleMetadata) -> None:
    done = 0
    try:
        for batch in batches:
            if not done:
                path.mkdir(parents=True, exist_ok=True)
                for old in _older(path)[0]:
                    old.unlink()
            for image in batch:
                name = f"{metadata.first + done:06d}.png"
                images.write_png(path / name, image, settings=metadata.of(done))
                _append(path / METADATA, json.dumps(metadata.row(done, name)) + "\n")
                done += 1
    except (KeyboardInterrupt, OSError) as error:
        # The one that was being written; what is there is in metadata.jsonl.
        (path / f"{metadata.first + done:06d}.png").unlink(missing_ok=True)
        told = f"{done} of {metadata.num} pictures are in {path}" if done else ""
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(told) from None
        error.add_note(f"{SAVED}{told}" if told else f"{SAVED}nothing")
        raise


def _append(path: Path, line: str) -> None:
    """Adds a whole line, or none where the disk has no room for it."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            write_all(file, line.encode())
        except OSError:
            file.truncate(before)
            raise


def _older(folder: Path) -> tuple[list[Path], list[Path]]:
    """What an earlier `write_output` left in a folder, and other pictures."""
    ours, others = [], []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.name == METADATA or re.fullmatch(r"\d{6,}\.png(\.tmp)?", file.name):
            ours.append(file)
        elif file.suffix.lower() in EXTENSIONS:
            others.append(file)
    return ours, others
