"""Log-likelihoods through the probability-flow ODE."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.diffusion import grids
from ldm_jax.diffusion.precision import wide
from ldm_jax.diffusion.samplers.base import Denoise, example_keys
from ldm_jax.diffusion.samplers.runge_kutta import frame
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.errors import InputError


def log_likelihood(
    denoise: Denoise,
    schedule: Schedule,
    grid: Float[Array, "n"],
    z: Float[Array, "b ..."],
    key: Array,
    probes: int | Literal["exact"] = 1,
    prior_std: float | None = None,
) -> Float[Array, "b"]:
    """log p(z) in nats, [b], of z at the grid's last time.

    Song et al. 2021 (arXiv 2011.13456), appendix D.2, eq. 39 and 40: the ODE is followed up the grid together with the
    divergence of its slope, which is estimated by Hutchinson's v' J v with Rademacher v (Grathwohl et al. 2018, arXiv
    1810.01367, section 3.1). The same probes are used along a path, so the ODE is deterministic. grid: the descending
    one of a sampler; its end should be a small time above 0, unless the denoiser is good at 0. probes: how many, or
    "exact" for all directions (one evaluation a dimension). prior_std: of z at the grid's start, by default the
    standard deviation of alpha x0 + sigma eps for x0 of variance 1. Kutta's rule, four evaluations a step and probe, in
    the variable "flow" of `samplers.runge_kutta`. Computed in float32 at least.

    Raises:
      InputError: the grid is none, z is not of floats, or probes or prior_std is not positive.
    """
    if probes != "exact" and probes < 1:
        raise InputError(f"probes: {probes!r} must be at least 1, or exact")
    if prior_std is not None and not 0.0 < prior_std < math.inf:
        raise InputError(f"prior_std: {prior_std!r} must be a positive number")
    grids.check(grid)
    z = wide("z", z)
    own = frame("flow", schedule)
    grid = jnp.asarray(grid, z.dtype)[::-1]
    shape, dims = z.shape, math.prod(z.shape[1:])
    if probes == "exact":
        vectors = jnp.broadcast_to(jnp.eye(dims, dtype=z.dtype)[:, None], (dims, shape[0], dims)).reshape(dims, *shape)
        scale = 1.0
    else:
        keys = example_keys(key, shape[0])

        def draw(key: Array) -> Array:
            return jax.random.rademacher(key, (probes, *shape[1:]), z.dtype)

        vectors = jnp.moveaxis(jax.vmap(draw)(keys), 1, 0)
        scale = 1.0 / probes

    def slope(y: Array, u: Array, t: Array) -> tuple[Array, Array]:
        """dy/du, and its divergence [b]."""

        def field(y: Array) -> Array:
            return own.slope(denoise(own.scale(t) * y, t), t)

        value, push = jax.linearize(field, y)
        pushed = jax.vmap(push)(vectors)
        return value, scale * (vectors * pushed).reshape(vectors.shape[0], shape[0], -1).sum((0, 2))

    def body(carry: tuple[Array, Array], ends: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        y, total = carry
        a, b = ends
        u, width = own.place(a), own.place(b) - own.place(a)
        middle = own.time(u + 0.5 * width)
        k1, d1 = slope(y, u, a)
        k2, d2 = slope(y + 0.5 * width * k1, u, middle)
        k3, d3 = slope(y + 0.5 * width * k2, u, middle)
        k4, d4 = slope(y + width * k3, u, b)
        y = y + width / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return (y, total + width / 6 * (d1 + 2 * d2 + 2 * d3 + d4)), None

    start = (z / own.scale(grid[0]), jnp.zeros(shape[0], grid.dtype))
    (y, total), _ = jax.lax.scan(body, start, (grid[:-1], grid[1:]))
    first, last = grid[-1], grid[0]
    if prior_std is None:
        std = jnp.sqrt(schedule.alpha(first) ** 2 + schedule.sigma(first) ** 2)
    else:
        std = jnp.asarray(prior_std, grid.dtype)
    noise = (own.scale(first) * y / std).reshape(shape[0], -1)
    prior = -0.5 * (noise**2).sum(1) - dims * (0.5 * np.log(2 * np.pi) + jnp.log(std / own.scale(first)))
    return prior + total - dims * jnp.log(own.scale(last))


def bits_per_dim(log_likelihood: Float[Array, "b"], dims: int, levels: int | None = None) -> Float[Array, "b"]:
    """-log p / (dims log 2), [b]; with `levels`, of pixels that were scaled to [-1, 1] from so many (256).

    A density of values in steps of 2 / (levels - 1) has log2((levels - 1) / 2) more bits a dimension than the
    probabilities of the steps. Theis et al. 2015 (arXiv 1511.01844), section 3.1; the pixels should be dequantised.

    Raises:
      InputError: dims is less than 1, or levels less than 2.
    """
    if dims < 1 or (levels is not None and levels < 2):
        raise InputError(f"dims, levels: {dims!r}, {levels!r} must be at least 1 and 2")
    bits = -wide("log_likelihood", log_likelihood) / (dims * math.log(2.0))
    return bits if levels is None else bits + math.log2((levels - 1) / 2.0)
