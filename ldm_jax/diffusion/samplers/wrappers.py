"""Samplers from samplers."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ldm_jax.diffusion.prediction import AnyEstimate, clip_x0
from ldm_jax.diffusion.samplers.base import Denoise, Sampler, State, Step


def clipped(
    sampler: Sampler,
    limit: float = 1.0,
    percentile: float | None = None,
    maximum: float = float("inf"),
    consistent: bool = True,
) -> Sampler:
    """The sampler, seeing every estimate with x0 clipped to [-limit, limit] or thresholded: see `prediction.clip_x0`.

    For pixels: the range of latents isn't known. Ho et al. 2020's code clips, Saharia et al. 2022 (arXiv 2205.11487),
    section 2.3, thresholds.
    """

    def step(denoise: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        def seen(z_t: Array, t: Array, /) -> AnyEstimate:
            alpha, sigma = at.schedule.alpha(t), at.schedule.sigma(t)
            return clip_x0(denoise(z_t, t), z_t, alpha, sigma, limit, percentile, maximum, consistent)

        return sampler.step(seen, z, state, at)

    return sampler._replace(step=step, order=None)


def retargeted(
    sampler: Sampler, targets: Sequence[float] | np.ndarray, starts: Sequence[float] | np.ndarray | None = None
) -> Sampler:
    """The sampler, with step i going to the time targets[i] whatever the grid's next time is.

    What a sampler does that computes where a step goes without looking at where the next one starts; only there to
    reproduce such samplers. starts: the times at which the steps begin, for grids that are a part of the whole one.
    """

    def step(denoise: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        i = at.index if starts is None else jnp.argmin(jnp.abs(jnp.asarray(np.asarray(starts), at.t.dtype) - at.t))
        return sampler.step(denoise, z, state, at._replace(s=jnp.asarray(np.asarray(targets), at.t.dtype)[i]))

    return sampler._replace(step=step, order=None)
