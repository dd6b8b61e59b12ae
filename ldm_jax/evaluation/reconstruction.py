"""A model's autoencoder on images: what it loses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import metrics
from ldm_jax.evaluation.numbers import PIXELWISE, RECONSTRUCTION_FRECHET
from ldm_jax.evaluation.sets import Hashed, ImageSet
from ldm_jax.evaluation.spaces import Comparison, Space
from ldm_jax.evaluation.subjects import ModelSubject
from ldm_jax.metrics import Rounding, Wanted, panel
from ldm_jax.progress import track

SHOWN = 16
METRICS: dict[str, Callable[..., Any]] = {
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
    "ms_ssim": metrics.ms_ssim,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    """What the autoencoder makes of images: metrics by name, which images they were."""

    values: dict[str, float]
    images_hash: str
    picture: np.ndarray
    """The first images with their reconstructions beside them."""


def reconstruct(
    subject: ModelSubject,
    images: ImageSet,
    names: list[str],
    spaces: Mapping[str, Space],
    comparisons: Mapping[str, Comparison],
    batch_size: int,
    rounding: Rounding,
) -> Reconstruction:
    """The metrics `names` of reconstructions of `images`, both as 8-bit images; pixelwise ones are means over them."""
    compared: dict[str, Callable[..., jax.Array]] = {
        PIXELWISE[name]: jax.jit(partial(METRICS[name], data_range=255)) for name in names if name in PIXELWISE
    }
    compared |= {comparison.label: comparison.distance for comparison in comparisons.values()}
    sums = dict.fromkeys(compared, 0.0)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def see(x: np.ndarray, y: np.ndarray) -> None:
        pairs.extend(list(zip(x, y, strict=True))[: SHOWN - len(pairs)])
        place = np.minimum(np.arange(batch_size), len(x) - 1)
        for name, compare in compared.items():
            values = compare(jnp.asarray(x[place], jnp.float32), jnp.asarray(y[place], jnp.float32))
            sums[name] += float(np.asarray(values, np.float64)[: len(x)].sum())

    frechet = {name: RECONSTRUCTION_FRECHET[name] for name in names if name in RECONSTRUCTION_FRECHET}
    wanted = {space: Wanted(moments=frozenset({"pool"})) for space, _ in frechet.values()}
    extractors = {space: spaces[space].extract for space in wanted}
    hashed, count = Hashed(images.stream(batch_size), images.shape), -(-images.count // batch_size)
    if wanted:
        originals = metrics.collect(track(hashed, images.name, count, "batch"), extractors, wanted)
    else:
        originals = {}
        for _ in hashed:
            pass
    rebuilding = track(subject.rebuild(images, batch_size, rounding, see), "reconstructions", count, "batch")
    rebuilt = metrics.collect(rebuilding, extractors, wanted)
    values = {name: total / images.count for name, total in sums.items()}
    for space, label in frechet.values():
        gaussians = (features[space].moments["pool"].gaussian for features in (rebuilt, originals))
        values[label] = metrics.frechet_distance(*gaussians)
    first, again = (np.stack(side) for side in zip(*pairs, strict=True))
    errors = np.sqrt(np.square(first.astype(np.float64) - again).mean(axis=(1, 2, 3)))[:, None]
    return Reconstruction(values, hashed.hexdigest(), panel.neighbours(first, again[:, None], errors))
