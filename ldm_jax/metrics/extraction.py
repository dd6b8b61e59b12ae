"""Features of image sets: extracted on all devices, reduced while they stream by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import UInt8

from ldm_jax.errors import InputError
from ldm_jax.mesh import AXIS, device_mesh
from ldm_jax.metrics.checks import grey_levels, vectors
from ldm_jax.metrics.statistics import Moments, merge, moments

Extract = Callable[[Any], Mapping[str, Any]]
"""Images uint8 [b h w c] to named features [b d]."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which of a network's outputs are reduced to moments, and which are kept as arrays, float32 [n d]."""

    moments: frozenset[str] = frozenset()
    arrays: frozenset[str] = frozenset()

    def __or__(self, more: Wanted) -> Wanted:
        return Wanted(self.moments | more.moments, self.arrays | more.arrays)


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What one network saw in one set."""

    moments: Mapping[str, Moments]
    arrays: Mapping[str, np.ndarray]


def sharded(extract: Extract, batch_size: int, devices: Sequence[Any] | None = None) -> Extract:
    """`extract` with its batch split over the devices (all of all processes, where None).

    Takes up to batch_size images [b h w c] and gives numpy features of these b; shorter batches are filled up to
    batch_size (itself rounded up to a multiple of the devices), so that there is one compilation. With several
    processes, each calls this with the same images and gets all features.

    Raises:
      InputError: batch_size is less than 1; later, a batch that has none or more images than that.
    """
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} must be at least 1")
    devices = list(jax.devices() if devices is None else devices)
    split = NamedSharding(device_mesh(devices), PartitionSpec(AXIS))
    full = -(-batch_size // len(devices)) * len(devices)

    def run(images: UInt8[np.ndarray, "b h w c"]) -> dict[str, np.ndarray]:
        if not 1 <= len(images) <= full:
            raise InputError(f"images: a batch of {len(images)} must have from 1 to {full}")
        filled = images[np.minimum(np.arange(full), len(images) - 1)]
        placed = jax.make_array_from_callback(filled.shape, split, lambda index: filled[index])
        out = extract(placed)
        if jax.process_count() > 1:
            out = multihost_utils.process_allgather(out, tiled=True)
        return {name: np.asarray(value)[: len(images)] for name, value in out.items()}

    return run


def collect(
    batches: Iterable[Any], extractors: Mapping[str, Extract], wanted: Mapping[str, Wanted]
) -> dict[str, Features]:
    """Runs every network over batches uint8 [b h w c], drawn once; moments and the arrays that are wanted are kept.

    Raises:
      InputError: a network lacks an output, or its features are not finite.
    """
    sums: dict[str, dict[str, Moments]] = {name: {} for name in wanted}
    kept: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in wanted}
    for batch in batches:
        for name, want in wanted.items():
            out = extractors[name](batch)
            for layer in want.moments | want.arrays:
                if layer not in out:
                    raise InputError(f"features: {name} has no output {layer!r}; it has {', '.join(sorted(out))}")
            for layer in want.moments:
                part, so_far = moments(np.asarray(out[layer])), sums[name].get(layer)
                sums[name][layer] = part if so_far is None else merge(so_far, part)
            for layer in want.arrays:
                kept[name].setdefault(layer, []).append(vectors(name, np.asarray(out[layer], np.float32)))
    return {
        name: Features(sums[name], {layer: np.concatenate(parts) for layer, parts in kept[name].items()})
        for name in wanted
    }


def pixels(side: int = 32) -> Extract:
    """A feature space without a network: the image itself, shrunk by a box filter to at most `side`, in [0, 1].

    A side that a whole factor does not bring to `side` or less is first cropped at its right and lower edge.

    Raises:
      InputError: `side` is less than 1; later, images that are not uint8, or so narrow that nothing would be left.
    """
    if side < 1:
        raise InputError(f"side: {side} must be at least 1")

    def extract(images: Any) -> dict[str, np.ndarray]:
        grey_levels("images", images)
        x = np.asarray(images, np.float32) / 255.0
        b, h, w, c = x.shape
        factor = -(-max(h, w) // side)
        if min(h, w) < factor:
            raise InputError(f"images: {h}x{w} must have sides of at least {factor} to be shrunk to {side} px")
        h, w = h // factor, w // factor
        x = x[:, : h * factor, : w * factor].reshape(b, h, factor, w, factor, c).mean(axis=(2, 4))
        return {"pool": x.reshape(b, -1)}

    return extract
