"""A model's autoencoder on images: what it loses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import evaluation
from ldm_jax.evaluating.metrics import LPIPS, PIXELWISE, RECONSTRUCTION_FRECHET
from ldm_jax.evaluating.sets import Hashed, ImageSet
from ldm_jax.evaluating.spaces import Space
from ldm_jax.evaluating.subjects import ModelSubject
from ldm_jax.evaluation import Rounding, Wanted, panel
from ldm_jax.models import apply

SHOWN = 16
METRICS: dict[str, Callable[..., Any]] = {
    "psnr": evaluation.psnr,
    "ssim": evaluation.ssim,
    "ms_ssim": evaluation.ms_ssim,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    values: dict[str, float]
    images_hash: str
    picture: np.ndarray
    """The first images with their reconstructions beside them."""


def reconstruct(
    subject: ModelSubject,
    images: ImageSet,
    names: list[str],
    spaces: dict[str, Space],
    batch_size: int,
    rounding: Rounding,
) -> Reconstruction:
    """The metrics `names` of reconstructions of `images`, both as 8-bit images; pixelwise ones are means over them."""
    compared = {name: _comparison(name) for name in names if name in PIXELWISE or name in LPIPS}
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
    hashed = Hashed(images.stream(batch_size), images.shape)
    if wanted:
        originals = evaluation.collect(hashed, extractors, wanted)
    else:
        originals = {}
        for _ in hashed:
            pass
    rebuilt = evaluation.collect(subject.rebuild(images, batch_size, rounding, see), extractors, wanted)
    labels = {**PIXELWISE, **{name: label for name, (_, label) in LPIPS.items()}}
    values = {labels[name]: total / images.count for name, total in sums.items()}
    for space, label in frechet.values():
        gaussians = (features[space].moments["pool"].gaussian for features in (rebuilt, originals))
        values[label] = evaluation.frechet_distance(*gaussians)
    first, again = (np.stack(side) for side in zip(*pairs, strict=True))
    errors = np.sqrt(np.square(first.astype(np.float64) - again).mean(axis=(1, 2, 3)))[:, None]
    return Reconstruction(values, hashed.hexdigest(), panel.neighbours(first, again[:, None], errors))


def _comparison(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(originals, reconstructions) as grey levels [b h w c] to [b]."""
    if name in METRICS:
        return jax.jit(partial(METRICS[name], data_range=255))
    from ldm_jax.pretrained import load_lpips

    module, params = load_lpips(LPIPS[name][0])

    @jax.jit
    def distance(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        # LPIPS is a network of colour images; grey ones are three equal channels.
        x, y = (jnp.broadcast_to(a, (*a.shape[:-1], 3)) / 127.5 - 1.0 for a in (x, y))
        return apply(module, params, x, y)

    return partial(distance, params)
