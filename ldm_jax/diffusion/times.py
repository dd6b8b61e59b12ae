"""Time samplers: which t in (0, 1) each training example gets. A function of the example's key alone."""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ldm_jax.diffusion.schedules import Schedule, time
from ldm_jax.errors import InputError

Kind = Literal["uniform", "stratified", "logit_normal", "mode", "cosmap", "log_normal"]
KINDS: tuple[str, ...] = get_args(Kind)


def sample_times(
    kind: Kind,
    keys: Array,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    scale: float = 1.29,
    schedule: Schedule | None = None,
    index: Int[Array, "b"] | None = None,
    count: int | None = None,
) -> Float[Array, "b"]:
    """Times [b] for keys [b].

    uniform       on [0, 1)
    stratified    example `index` of a global batch of `count` draws from its own slice [index, index + 1) / count;
                  left out, they are the place in `keys` and its length. Lower variance of the batch's loss; the idea
                  of Kingma et al. 2021 (arXiv 2107.00630), appendix I.1, with independent draws in the slices
    logit_normal  sigmoid(mean + std n), n standard normal: Esser et al. 2024 (arXiv 2403.03206), eq. 19
    mode          heavier at the ends or the middle by `scale`, in [-1, 2 / (pi - 2)]: eq. 20 there
    cosmap        a uniform log-SNR of the cosine schedule, on the flow path: eq. 21 there
    log_normal    log(sigma / alpha) = mean + std n, as a time of `schedule`: Karras et al. 2022 (arXiv 2206.00364),
                  table 1, where mean = -1.2 and std = 1.2; times beyond the schedule's end are moved to it

    Raises:
      InputError: an unknown kind; a mean, std, scale or count out of range; log_normal without a schedule.
    """
    if not (math.isfinite(mean) and 0.0 < std < math.inf):
        raise InputError(f"mean, std: {mean!r}, {std!r} must be a finite number and a positive one")
    if kind == "logit_normal":
        return jax.nn.sigmoid(mean + std * jax.vmap(jax.random.normal)(keys))
    if kind == "log_normal":
        if schedule is None:
            raise InputError("schedule: log_normal times need one")
        log_ratio = mean + std * jax.vmap(jax.random.normal)(keys)
        return jnp.clip(time(schedule, -2.0 * log_ratio), 0.0, 1.0)
    if kind not in KINDS:
        raise InputError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    u = jax.vmap(jax.random.uniform)(keys)
    if kind == "uniform":
        return u
    if kind == "stratified":
        if count is not None and count < 1:
            raise InputError(f"count: {count!r} must be at least 1")
        place = jnp.arange(u.shape[0]) if index is None else index
        return (place.astype(u.dtype) + u) / (u.shape[0] if count is None else count)
    if kind == "mode":
        if not -1.0 <= scale <= 2.0 / (math.pi - 2.0):
            raise InputError(f"scale: {scale!r} is not in [-1, {2.0 / (math.pi - 2.0):.3f}]")
        # Rounding may lead beyond the ends.
        return jnp.clip(1.0 - u - scale * (jnp.cos(0.5 * jnp.pi * u) ** 2 - 1.0 + u), 0.0, 1.0)
    return 1.0 - 1.0 / (jnp.tan(0.5 * jnp.pi * u) + 1.0)
