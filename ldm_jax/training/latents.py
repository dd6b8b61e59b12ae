"""The training set in latent space: encoded once by all devices, kept on disk, read by memory map.

A cache is a folder:

    manifest.json       what was encoded, by which weights, and how many arrays of which shape came out; written last
    moments.npy         float32 [n v h w 2c]: means and log-variances, or [n v h w c] where the encoder gives latents
                        alone; v = 2 with flips. From several processes moments-0.npy, moments-1.npy, ... of
                        consecutive examples
    labels.npy          int32 [n], -1 for none

It is trusted only where its manifest is that of the data, transforms, autoencoder and weights at hand, and its files
are whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from tqdm import tqdm

from ldm_jax.data import Loader, Subset, evenly, order, prepare
from ldm_jax.errors import InputError
from ldm_jax.mesh import AXIS, device_mesh
from ldm_jax.models import apply
from ldm_jax.pretrained.writing import write_json
from ldm_jax.training.processes import together

log = logging.getLogger("ldm_jax")

FORMAT = 2
"""The version of the layout above; caches of others are not read."""

NO_VARIANCE = -30.0
"""The log-variance of latents that have none, a standard deviation of 3e-7."""

PROBES = 16
"""Examples whose pixels and labels are hashed into the manifest."""


def weights_hash(params: Any) -> str:
    """SHA-256 over every array's path, type, shape and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class Latents:
    """Posterior moments of every training image, and of its mirror image where flips are on.

    moments: float32 arrays [n_i v h w 2c], which together are the n examples in order (or one such array), v = 2 with
    flips, mean and log-variance along the last axis, or [n_i v h w c] where there is no variance; mean, std: float32
    [c], the statistics of posterior samples over the training set; labels: int32 [n].
    """

    def __init__(
        self, moments: np.ndarray | Sequence[np.ndarray], labels: np.ndarray, mean: np.ndarray, std: np.ndarray
    ):
        self.parts = [moments] if isinstance(moments, np.ndarray) else list(moments)
        self.labels, self.mean, self.std = labels, mean, std
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, step: int, batch_size: int, seed: int, process_index: int, process_count: int) -> dict[str, Any]:
        """Batch `step` in the loader's own order: mean, logvar [b h w c], label [b], index [b]."""
        where = {"process_index": process_index, "process_count": process_count}
        examples, flipped = order(len(self), batch_size, seed, step, **where)
        views = (flipped & (self.parts[0].shape[1] == 2)).astype(np.int64)
        mean, logvar = mean_and_logvar(self._take(examples, views), len(self.mean))
        first = process_index * len(examples)
        index = np.arange(first, first + len(examples), dtype=np.int32)
        return {"mean": mean, "logvar": logvar, "label": self.labels[examples], "index": index}

    def _take(self, examples: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Moments [b h w _] of these examples' views."""
        out = np.empty((len(examples), *self.parts[0].shape[2:]), np.float32)
        which = np.searchsorted(self._ends, examples, side="right")
        for i in np.unique(which):
            here, part = which == i, self.parts[i]
            out[here] = part[examples[here] - (self._ends[i] - len(part)), views[here]]
        return out


@partial(jax.jit, static_argnames="module")
def encode_moments(module: nn.Module, params: Any, images: Array) -> Array:
    """What the encoder gives for images [b h w c], means and log-variances (if any) along the last axis."""
    return jnp.concatenate(jax.tree.leaves(apply(module, params, images, method="encode")), axis=-1)


def mean_and_logvar(moments: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Moments [... 2c] or [... c] taken apart; latents without a variance get NO_VARIANCE."""
    mean = moments[..., :channels]
    if moments.shape[-1] == channels:
        return mean, np.broadcast_to(np.float32(NO_VARIANCE), mean.shape)
    return mean, moments[..., channels:]


def moments_statistics(
    parts: Sequence[np.ndarray], channels: int, chunk: int = 1024
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Per-channel mean and standard deviation [channels] of samples from the posteriors [n_i v h w _].

    In float64 and streaming; the same whatever parts the examples lie in.
    """
    total, square, inner = np.zeros((3, channels))
    count = 0
    for block in _chunks(parts, chunk):
        mean, logvar = mean_and_logvar(block.reshape(-1, block.shape[-1]).astype(np.float64), channels)
        count += len(mean)
        total += mean.sum(axis=0)
        square += np.square(mean).sum(axis=0)
        inner += np.exp(logvar).sum(axis=0)
    # Law of total variance: the variance of the means plus the mean of the variances.
    average = total / count
    variance = square / count - average**2 + inner / count
    return average.astype(np.float32), np.sqrt(variance).astype(np.float32)


def _chunks(parts: Sequence[np.ndarray], chunk: int) -> Iterator[np.ndarray]:
    """`chunk` examples at a time, across the parts' ends, so that sums don't depend on where these are."""
    rest: list[np.ndarray] = []
    for part in parts:
        start = 0
        while start < len(part):
            piece = part[start : start + chunk - sum(map(len, rest))]
            rest.append(piece)
            start += len(piece)
            if sum(map(len, rest)) == chunk:
                yield np.concatenate(rest)
                rest = []
    if rest:
        yield np.concatenate(rest)


def encode_all(
    folder: Path,
    module: nn.Module,
    params: Any,
    loader: Loader,
    identity: str,
    batch_size: int,
    devices: Sequence[Any] | None = None,
) -> Latents:
    """The latents of all of the loader's images, from `folder` if it holds exactly these, otherwise encoded now.

    Latents of an earlier state of the autoencoder are replaced. Latents of other images are not: a run's folder whose
    data have changed meanwhile is not a run to go on with. Every process encodes its share on all of its `devices` (all
    local ones where None); `batch_size` images at a time, rounded up to a multiple of their number.

    identity: a text that tells what was encoded, JSON if its fields shall be told apart in messages.

    Raises:
      InputError: `folder` holds latents of other images or transforms.
      FloatingPointError: the autoencoder gives NaN or infinity.
    """
    wanted = describe(module, params, loader, identity)
    try:
        return open_latents(folder, wanted)
    except _Unusable as error:
        if error.field.split(".")[0] in ("data", "transforms", "count", "images"):
            raise
        log.info("%s %s; encoding %d images into latents", folder, error.reason, len(loader.source))
    except FileNotFoundError:
        log.info("encoding %d images into latents", len(loader.source))
    # Nobody removes the old manifest before everybody has read it, and from then on there is no cache.
    together("latents read")
    folder.mkdir(parents=True, exist_ok=True)
    if loader.process_index == 0:
        (folder / "manifest.json").unlink(missing_ok=True)
    together("latents removed")
    encode_share(folder, module, params, loader, batch_size, devices)
    together("latents encoded")
    if loader.process_index == 0:
        finish(folder, module, params, loader, wanted)
    together("latents finished")
    return open_latents(folder, wanted)


def open_latents(folder: Path, wanted: Mapping[str, Any]) -> Latents:
    """The latents in `folder`, which must be those that `wanted` describes; nothing is encoded or changed.

    wanted: what `describe` gives for the data, the transforms and the autoencoder at hand.

    Raises:
      InputError: something differs, which the message names, or a file is damaged.
      FileNotFoundError: there is no finished cache.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except ValueError as error:
        raise _Unusable(folder, "manifest", "its manifest.json is not JSON") from error
    known = manifest if isinstance(manifest, dict) else {}
    for name, stored, now in _differences({key: known.get(key) for key in wanted}, wanted):
        raise _Unusable(folder, name, f"was made with {name} {_short(stored)}, which is {_short(now)} now")
    try:
        rows, shape = manifest["parts"], tuple(manifest["shape"])
        mean, std = (np.asarray(manifest[key], np.float32) for key in ("mean", "std"))
        parts = [_read(folder, name, (n, *shape)) for name, n in zip(_names(len(rows)), rows, strict=True)]
        labels = np.array(_read(folder, "labels.npy", (wanted["count"],)))
        whole = sum(rows) == len(labels) and len(mean) == len(std) and shape[-1] in (len(mean), 2 * len(mean))
    except _Unusable:
        raise
    except (KeyError, TypeError, ValueError, IndexError, EOFError, OSError) as error:
        raise _Unusable(folder, "files", f"is damaged ({' '.join(str(error).split())})") from error
    if not whole:
        raise _Unusable(folder, "files", "is damaged (the manifest contradicts itself)")
    return Latents(parts, labels, mean, std)


class _Unusable(InputError):
    """Why a cache can't be used; `field` is the first entry that differs."""

    def __init__(self, folder: Path, field: str, reason: str):
        super().__init__(f"latents: {folder} {reason}; remove it or name another folder to encode anew")
        self.field, self.reason = field, reason


def describe(module: nn.Module, params: Any, loader: Loader, identity: str) -> dict[str, Any]:
    """What latents depend on, as the manifest has it: format, data, transforms, images, autoencoder, weights."""
    try:
        data = json.loads(identity)
    except ValueError:
        data = identity
    n = len(loader.source)
    digest = hashlib.sha256()
    for i in evenly(n, PROBES).tolist():
        example = loader.source[i]
        digest.update(prepare(example.image, loader.image_size, loader.channels).tobytes())
        digest.update(str(int(example.label)).encode())
    config: Any = module.config  # pyright: ignore[reportAttributeAccessIssue]
    found = {
        "format": FORMAT,
        "data": data,
        "transforms": {"image_size": loader.image_size, "channels": loader.channels, "flip": loader.flip},
        "count": n,
        "images": digest.hexdigest(),
        "autoencoder": {"class": type(module).__name__, **dataclasses.asdict(config)},
        "weights": weights_hash(params),
    }
    return json.loads(json.dumps(found))


def _differences(stored: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, stored, wanted) of everything that is not the same, in wanted's order."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in {**wanted, **stored}:
            yield from _differences(stored.get(key), wanted.get(key), f"{name}.{key}".strip("."))
    elif stored != wanted:
        yield name, stored, wanted


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:20]}..."


def _names(parts: int) -> list[str]:
    return ["moments.npy"] if parts == 1 else [f"moments-{i}.npy" for i in range(parts)]


def _read(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    dtype = np.int32 if name == "labels.npy" else np.float32
    if array.shape != shape or array.dtype != dtype:
        raise _Unusable(folder, "files", f"is damaged ({name} is {array.dtype} {array.shape}, not {shape})")
    return array


def encode_share(
    folder: Path, module: nn.Module, params: Any, loader: Loader, batch_size: int, devices: Sequence[Any] | None = None
) -> None:
    """Encodes this process's consecutive examples into a file of its own, which appears when it is whole."""
    devices = jax.local_devices() if devices is None else devices
    mesh = device_mesh(devices)
    split, replicated = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(params, replicated)

    n, process, names = len(loader.source), loader.process_index, _names(_shares(loader))
    if process >= len(names):
        return
    start, stop = (n * (process + i) // len(names) for i in range(2))
    mine = loader
    if stop - start < n:
        part = Subset(loader.source, np.arange(start, stop))
        mine = Loader(part, batch_size=1, image_size=loader.image_size, channels=loader.channels, seed=0)
    batch_size = -(-batch_size // len(devices)) * len(devices)
    leaves = jax.tree.leaves(_encoded(module, params, loader))
    shape = (stop - start, 1 + loader.flip, *leaves[0].shape[1:-1], sum(leaf.shape[-1] for leaf in leaves))
    temporary = folder / f"{names[process]}.tmp"
    out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
    quiet = process > 0 or not sys.stderr.isatty()
    with tqdm(total=stop - start, desc="latents", unit="image", disable=quiet, dynamic_ncols=True) as bar:
        for begin, images, valid in mine.in_order(batch_size):
            views = [images, np.ascontiguousarray(images[:, :, ::-1])] if loader.flip else [images]
            encoded = [encode_moments(module, params, jax.device_put(view, split)) for view in views]
            block = np.stack([np.asarray(view) for view in encoded], axis=1)[:valid]
            finite = np.isfinite(block).reshape(valid, -1).all(axis=1)
            if not finite.all():
                bad = start + begin + int(finite.argmin())
                raise FloatingPointError(f"latents: the autoencoder gives NaN or infinity for image {bad}")
            out[begin : begin + valid] = block
            bar.update(valid)
    out.flush()
    temporary.replace(folder / names[process])


def finish(folder: Path, module: nn.Module, params: Any, loader: Loader, wanted: Mapping[str, Any]) -> None:
    """Measures what all processes have encoded and writes the labels and, last of all, the manifest."""
    names = _names(_shares(loader))
    parts = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in names]
    channels = jax.tree.leaves(_encoded(module, params, loader))[0].shape[-1]
    mean, std = moments_statistics(parts, channels)
    temporary = folder / "labels.npy.tmp"
    with temporary.open("wb") as file:
        np.save(file, loader.labels)
    temporary.replace(folder / "labels.npy")
    for path in folder.glob("moments*.npy*"):
        if path.name not in names:
            path.unlink()
    made = {"parts": [len(part) for part in parts], "shape": list(parts[0].shape[1:])}
    statistics = {"mean": mean.tolist(), "std": std.tolist()}
    write_json(folder / "manifest.json", {**wanted, **made, **statistics, "created_by": _version()})


def _shares(loader: Loader) -> int:
    return min(loader.process_count, len(loader.source))


def _encoded(module: nn.Module, params: Any, loader: Loader) -> Any:
    """The shapes that the encoder gives for one image."""
    image = jax.ShapeDtypeStruct((1, loader.image_size, loader.image_size, loader.channels), np.float32)
    return jax.eval_shape(lambda p, x: apply(module, p, x, method="encode"), params, image)


def _version() -> str:
    try:
        return f"ldm_jax {importlib.metadata.version('ldm-jax')}"
    except importlib.metadata.PackageNotFoundError:
        return "ldm_jax, not installed"
