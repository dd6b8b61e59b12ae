"""The training set in latent space: encoded once, kept beside the run, read by memory map."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.data import Loader, order
from ldm_jax.models import Autoencoder, apply

log = logging.getLogger("ldm_jax")


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

    moments: float32 [n v h w 2c], v = 2 with flips, mean and log-variance along the last axis; mean, std: float32 [c],
    the statistics of posterior samples over the training set; labels: int32 [n].
    """

    def __init__(self, moments: np.ndarray, labels: np.ndarray, mean: np.ndarray, std: np.ndarray):
        self.moments, self.labels, self.mean, self.std = moments, labels, mean, std

    def batch(self, step: int, batch_size: int, seed: int, process_index: int, process_count: int) -> dict[str, Any]:
        """Batch `step` in the loader's own order: mean, logvar [b h w c], label [b], index [b]."""
        where = {"process_index": process_index, "process_count": process_count}
        examples, flipped = order(len(self.moments), batch_size, seed, step, **where)
        views = (flipped & (self.moments.shape[1] == 2)).astype(np.int64)
        mean, logvar = np.split(self.moments[examples, views], 2, axis=-1)
        first = process_index * len(examples)
        index = np.arange(first, first + len(examples), dtype=np.int32)
        return {"mean": mean, "logvar": logvar, "label": self.labels[examples], "index": index}


def moments_statistics(moments: np.ndarray, chunk: int = 1024) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Per-channel mean and standard deviation of samples from the posteriors [n v h w 2c], in float64 and streaming."""
    c = moments.shape[-1] // 2
    count, total, square, inner = 0, np.zeros(c), np.zeros(c), np.zeros(c)
    for start in range(0, len(moments), chunk):
        mean, logvar = np.split(moments[start : start + chunk].reshape(-1, 2 * c).astype(np.float64), 2, axis=1)
        count += len(mean)
        total += mean.sum(axis=0)
        square += np.square(mean).sum(axis=0)
        inner += np.exp(logvar).sum(axis=0)
    # Law of total variance: the variance of the means plus the mean of the variances.
    average = total / count
    variance = square / count - average**2 + inner / count
    return average.astype(np.float32), np.sqrt(variance).astype(np.float32)


def encode_all(
    folder: Path, module: Autoencoder, params: Any, loader: Loader, identity: str, batch_size: int
) -> Latents:
    """The latents of all of the loader's images, from `folder` if it holds exactly these, otherwise encoded now.

    identity: a text that tells what was encoded (data and transforms); with the weights' hash it makes the manifest.
    """
    manifest = {"data": identity, "weights": weights_hash(params), "flip": loader.flip, "count": len(loader.source)}
    paths = {name: folder / f"{name}.npy" for name in ("moments", "labels")}
    note = folder / "manifest.json"
    if not (note.exists() and json.loads(note.read_text()) == manifest):
        folder.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        log.info("encoding %d images into latents", len(loader.source))
        _encode(paths["moments"], module, params, loader, batch_size)
        np.save(paths["labels"], loader.labels)
        # The manifest is written last: a folder with one is whole.
        temporary = folder / "manifest.tmp"
        temporary.write_text(json.dumps(manifest))
        temporary.replace(note)
    moments = np.load(paths["moments"], mmap_mode="r", allow_pickle=False)
    return Latents(moments, np.load(paths["labels"], allow_pickle=False), *moments_statistics(moments))


def _encode(path: Path, module: Autoencoder, params: Any, loader: Loader, batch_size: int) -> None:
    @jax.jit
    def moments(params: Any, x: Array) -> Array:
        posterior = apply(module, params, x, method="encode")
        return jax.numpy.concatenate(posterior, axis=-1)

    out = None
    for start, images, valid in loader.in_order(batch_size):
        views = [images, images[:, :, ::-1]] if loader.flip else [images]
        block = np.stack([np.asarray(moments(params, view)) for view in views], axis=1)[:valid]
        if out is None:
            shape = (len(loader.source), *block.shape[1:])
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        out[start : start + valid] = block
    assert out is not None
    out.flush()
