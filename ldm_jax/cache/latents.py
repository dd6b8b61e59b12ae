"""The training set in latent space: encoded once by all devices, kept on disk, read by memory map.

A cache is a folder:

    manifest.json       what was encoded, by which weights, and how many arrays of which shape came out; written last
    moments.npy         float32 or float16 [n v *space 2c]: means and log-variances, or [n v *space c] where the encoder
                        gives latents alone; v = 2 with flips. From several processes moments-0.npy, moments-1.npy,
                        ... of consecutive examples

It is trusted only where its manifest is that of the data, transforms, autoencoder and weights at hand, and its files
are whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
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

from ldm_jax.cache.manifest import Unusable, manifest_digest, read_manifest, version, weights_hash
from ldm_jax.cache.place import Place
from ldm_jax.data import Loader, Subset, evenly
from ldm_jax.errors import Diverged
from ldm_jax.files import mapped_array
from ldm_jax.mesh import AXIS, device_mesh
from ldm_jax.models import apply
from ldm_jax.pretrained.writing import write_json
from ldm_jax.processes import barrier

log = logging.getLogger("ldm_jax")

FORMAT = 3
"""The version of the layout above; caches of others are not read."""

NO_VARIANCE = -30.0
"""The log-variance of latents that have none, a standard deviation of 3e-7."""

PROBES = 16
"""Examples whose pixels are hashed into the manifest."""


class Latents:
    """Posterior moments of every training image, and of its mirror image where flips are on.

    moments: arrays [n_i v *space 2c], which together are the n examples in order (or one such array), v = 2 with flips,
    mean and log-variance along the last axis, or [n_i v *space c] where there is no variance; mean, std: float32 [c],
    the statistics of posterior samples over the training set; digest: of what the manifest says; weights: the
    `weights_hash` of the autoencoder.
    """

    def __init__(
        self,
        moments: np.ndarray | Sequence[np.ndarray],
        mean: np.ndarray,
        std: np.ndarray,
        digest: str = "",
        weights: str = "",
    ):
        self.parts = [moments] if isinstance(moments, np.ndarray) else list(moments)
        self.mean, self.std, self.digest, self.weights = mean, std, digest, weights
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """[*space c] of one example's latents."""
        return (*self.parts[0].shape[2:-1], len(self.mean))

    @property
    def views(self) -> int:
        """2 where mirror images are there, too."""
        return self.parts[0].shape[1]

    def batch(self, place: Place) -> dict[str, np.ndarray]:
        """mean, logvar float32 [b *space c], index int32 [b]: the global batch's place of each example."""
        moments = self._take(place.examples, place.views(self.views))
        mean, logvar = mean_and_logvar(moments, len(self.mean))
        return {"mean": mean, "logvar": logvar, "index": place.index}

    def _take(self, examples: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Moments float32 [b *space _] of these examples' views."""
        out = np.empty((len(examples), *self.parts[0].shape[2:]), np.float32)
        which = np.searchsorted(self._ends, examples, side="right")
        for i in np.unique(which):
            here, part = which == i, self.parts[i]
            out[here] = part[examples[here] - (self._ends[i] - len(part)), views[here]]
        return out


@partial(jax.jit, static_argnames="module")
def encode_moments(module: nn.Module, params: Any, images: Array) -> Array:
    """What the encoder gives for images [b *space c], means and log-variances (if any) along the last axis."""
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

    In float64 and streaming; the same whatever parts the examples lie in. A channel without any variance gets the
    standard deviation 1, so that it is normalised to 0.
    """
    count, mean, square, inner = 0, np.zeros(channels), np.zeros(channels), np.zeros(channels)
    for block in _chunks(parts, chunk):
        means, logvar = mean_and_logvar(block.reshape(-1, block.shape[-1]).astype(np.float64), channels)
        n, own = len(means), means.mean(axis=0)
        # Chan et al. 1983, eq. 2.1: a mean of squares less a squared mean would lose a small variance to rounding.
        delta, total = own - mean, count + n
        square += np.square(means - own[None]).sum(axis=0) + np.square(delta) * (count * n / total)
        mean += delta * (n / total)
        inner += np.exp(logvar).sum(axis=0) if block.shape[-1] > channels else 0.0
        count = total
    # Law of total variance: the variance of the means plus the mean of the variances.
    std = np.sqrt(np.maximum(square + inner, 0.0) / count).astype(np.float32)
    for channel in np.flatnonzero(std <= np.finfo(np.float32).eps * np.abs(mean)):
        log.warning("latent channel %d is constant", channel)
        std[channel] = 1.0
    return mean.astype(np.float32), std


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
    dtype: str = "float32",
) -> Latents:
    """The latents of all of the loader's images, from `folder` if it holds exactly these, otherwise encoded now.

    Latents of an earlier state of the autoencoder are replaced. Latents of other images are not: a run's folder whose
    data have changed meanwhile can't be resumed. Every process encodes its share on all of its `devices` (all
    local ones where None); `batch_size` images at a time, rounded up to a multiple of their number.

    identity: a text that tells what was encoded, JSON if its fields shall be told apart in messages. dtype: of the
    moments on disk, float32 or float16.

    Raises:
      InputError: `folder` holds latents of other images or transforms.
      Diverged: the autoencoder gives NaN or infinity.
    """
    wanted = describe(module, params, loader, identity, dtype)
    try:
        return open_latents(folder, wanted)
    except Unusable as error:
        if error.field.split(".")[0] in ("data", "transforms", "count", "images"):
            raise
        log.info("%s %s; encoding %d images into latents", folder, error.reason, len(loader.source))
    except FileNotFoundError:
        log.info("encoding %d images into latents", len(loader.source))
    # Nobody removes the old manifest before everybody has read it, and from then on there is no cache.
    barrier("latents read")
    folder.mkdir(parents=True, exist_ok=True)
    if loader.process_index == 0:
        (folder / "manifest.json").unlink(missing_ok=True)
    barrier("latents removed")
    encode_share(folder, module, params, loader, batch_size, devices, dtype)
    barrier("latents encoded")
    if loader.process_index == 0:
        finish(folder, module, params, loader, wanted)
    barrier("latents finished")
    return open_latents(folder, wanted)


def open_latents(folder: Path, wanted: Mapping[str, Any]) -> Latents:
    """The latents in `folder`, which must be those that `wanted` describes; nothing is encoded or changed.

    wanted: what `describe` gives for the data, the transforms and the autoencoder at hand.

    Raises:
      InputError: something differs, which the message names, or a file is damaged.
      FileNotFoundError: there is no finished cache.
    """
    manifest = read_manifest(folder, wanted)
    try:
        rows, shape = manifest["parts"], tuple(manifest["shape"])
        mean, std = (np.asarray(manifest[key], np.float32) for key in ("mean", "std"))
        parts = [
            _read(folder, name, (n, *shape), wanted["dtype"]) for name, n in zip(_names(len(rows)), rows, strict=True)
        ]
        whole = sum(rows) == wanted["count"] and len(mean) == len(std) and shape[-1] in (len(mean), 2 * len(mean))
    except Unusable:
        raise
    except (KeyError, TypeError, ValueError, IndexError, EOFError, OSError) as error:
        raise Unusable(folder, "files", f"is damaged ({' '.join(str(error).split())})") from error
    if not whole:
        raise Unusable(folder, "files", "is damaged (the manifest contradicts itself)")
    return Latents(parts, mean, std, manifest_digest(manifest), wanted["weights"])


def describe(module: nn.Module, params: Any, loader: Loader, identity: str, dtype: str = "float32") -> dict[str, Any]:
    """What latents depend on, as the manifest has it: format, data, transforms, images, autoencoder, weights."""
    try:
        data = json.loads(identity)
    except ValueError:
        data = identity
    n = len(loader.source)
    digest = hashlib.sha256()
    for i in evenly(n, PROBES).tolist():
        digest.update(loader.prepared(i).tobytes())
    config: Any = module.config  # pyright: ignore[reportAttributeAccessIssue]
    found = {
        "format": FORMAT,
        "dtype": dtype,
        "data": data,
        "transforms": {"image_size": loader.image_size, "channels": loader.channels, "flip": loader.flip},
        "count": n,
        "images": digest.hexdigest(),
        "autoencoder": {"class": type(module).__name__, **dataclasses.asdict(config)},
        "weights": weights_hash(params),
    }
    return json.loads(json.dumps(found))


def _names(parts: int) -> list[str]:
    return ["moments.npy"] if parts == 1 else [f"moments-{i}.npy" for i in range(parts)]


def _read(folder: Path, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    if array.shape != shape or array.dtype != dtype:
        raise Unusable(folder, "files", f"is damaged ({name} is {array.dtype} {array.shape}, not {shape})")
    return array


def encode_share(
    folder: Path,
    module: nn.Module,
    params: Any,
    loader: Loader,
    batch_size: int,
    devices: Sequence[Any] | None = None,
    dtype: str = "float32",
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
    out = mapped_array(temporary, np.dtype(dtype), shape)
    quiet = process > 0 or not sys.stderr.isatty()
    with tqdm(total=stop - start, desc="latents", unit="image", disable=quiet, dynamic_ncols=True) as bar:
        for begin, images, valid in mine.in_order(batch_size):
            views = [images, np.ascontiguousarray(images[..., ::-1, :])] if loader.flip else [images]
            encoded = [encode_moments(module, params, jax.device_put(view, split)) for view in views]
            block = np.stack([np.asarray(view) for view in encoded], axis=1)[:valid]
            finite = np.isfinite(block).reshape(valid, -1).all(axis=1)
            if not finite.all():
                bad = start + begin + int(finite.argmin())
                raise Diverged(f"latents: the autoencoder gives NaN or infinity for image {bad}")
            out[begin : begin + valid] = block
            bar.update(valid)
    out.flush()
    temporary.replace(folder / names[process])


def finish(folder: Path, module: nn.Module, params: Any, loader: Loader, wanted: Mapping[str, Any]) -> None:
    """Measures what all processes have encoded and writes, last of all, the manifest."""
    names = _names(_shares(loader))
    parts = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in names]
    channels = jax.tree.leaves(_encoded(module, params, loader))[0].shape[-1]
    mean, std = moments_statistics(parts, channels)
    for path in folder.glob("moments*.npy*"):
        if path.name not in names:
            path.unlink()
    made = {"parts": [len(part) for part in parts], "shape": list(parts[0].shape[1:])}
    statistics = {"mean": mean.tolist(), "std": std.tolist()}
    write_json(folder / "manifest.json", {**wanted, **made, **statistics, "created_by": version()})


def _shares(loader: Loader) -> int:
    return min(loader.process_count, len(loader.source))


def _encoded(module: nn.Module, params: Any, loader: Loader) -> Any:
    """The shapes that the encoder gives for one image."""
    return _encode.eval_shape(module, params, jax.ShapeDtypeStruct((1, *loader.shape), np.float32))


@partial(jax.jit, static_argnums=0)
def _encode(module: nn.Module, params: Any, images: Array) -> Any:
    return apply(module, params, images, method="encode")
