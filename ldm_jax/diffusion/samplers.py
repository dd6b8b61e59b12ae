"""Reverse-time samplers: pairs of pure functions, as in optax, all run by the one `lax.scan` of `sample`.

A sampler never sees a network: it sees `denoise(z, t) -> Estimate` and the schedule's coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.prediction import Estimate
from ldm_jax.diffusion.schedules import Schedule

Denoise: TypeAlias = Callable[[Any, Any], Estimate]
State: TypeAlias = Any


class Step(NamedTuple):
    """One step of a grid, from time t down to time s < t, as a sampler sees it."""

    t: Float[Array, ""]
    s: Float[Array, ""]
    index: Array
    count: int
    schedule: Schedule
    noise: Callable[[int], Array]
    """noise(k) is standard normal of z's shape, fresh for every step and every k."""


class Sampler(NamedTuple):
    """init(z) -> state, step(denoise, z, state, Step) -> (z, state)."""

    init: Callable[[Array], State]
    step: Callable[[Denoise, Array, State, Step], tuple[Array, State]]


def example_keys(key: Array, n: int) -> Array:
    """[n] keys, one an example: `key` itself if it already is [n], otherwise key folded with 0..n-1."""
    if jnp.issubdtype(key.dtype, jnp.uint32):
        key = jax.random.wrap_key_data(key)
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))


def normal(keys: Array, like: Float[Array, "b ..."], *folds: int | Array) -> Float[Array, "b ..."]:
    """Standard normal noise of like's shape; example i's is a function of keys[i] and the folds alone."""
    for fold in folds:
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, fold)
    return jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))(keys)


def sample(
    denoise: Denoise,
    sampler: Sampler,
    schedule: Schedule,
    grid: Float[Array, "n_plus_1"],
    z: Float[Array, "b ..."],
    key: Array,
) -> Float[Array, "b ..."]:
    """Runs `sampler` down the `grid` from z, noise at time grid[0], to the z at time grid[-1].

    denoise: (z [b ...], t scalar) -> Estimate. grid: descending times in [0, 1], the end included, so n + 1 times are
    n steps. key: one key, or [b] keys, one an example; example i's noise depends on its key alone, not on the batch.
    """
    keys = example_keys(key, z.shape[0])
    grid = jnp.asarray(grid, z.dtype)
    count = grid.shape[0] - 1

    def body(carry, xs):
        z, state = carry
        t, s, index = xs
        at = Step(t, s, index, count, schedule, lambda k: normal(keys, z, index, k))
        return sampler.step(denoise, z, state, at), None

    (z, _), _ = jax.lax.scan(body, (z, sampler.init(z)), (grid[:-1], grid[1:], jnp.arange(count)))
    return z


def _stateless(step: Callable[[Denoise, Array, Step], Array]) -> Sampler:
    return Sampler(lambda z: (), lambda denoise, z, state, at: (step(denoise, z, at), state))


def euler() -> Sampler:
    """Euler's rule on the probability-flow ODE dz/dt = alpha'(t) x0 + sigma'(t) eps.

    SiT (Ma et al. 2024, arXiv 2401.08740), eq. 2 and 5; on RectifiedFlow it is eq. 2 of Liu et al. 2022. Order 1, one
    evaluation a step.
    """

    def step(denoise, z, at):
        one = jnp.ones_like(at.t)
        _, d_alpha = jax.jvp(at.schedule.alpha, (at.t,), (one,))
        _, d_sigma = jax.jvp(at.schedule.sigma, (at.t,), (one,))
        x0, eps = denoise(z, at.t)
        return z + (at.s - at.t) * (d_alpha * x0 + d_sigma * eps)

    return _stateless(step)


def ddim(eta: float = 0.0) -> Sampler:
    """Denoising diffusion implicit models, Song et al. 2020 (arXiv 2010.02502), eq. 12 and 16.

    eta = 0 is deterministic (the exponential-Euler step of the ODE), eta = 1 has the variance of DDPM's posterior.
    Written with alpha and sigma, so it holds for schedules that don't preserve variance, too.
    """

    def step(denoise, z, at):
        x0, eps = denoise(z, at.t)
        alpha_t, alpha_s = at.schedule.alpha(at.t), at.schedule.alpha(at.s)
        sigma_t, sigma_s = at.schedule.sigma(at.t), at.schedule.sigma(at.s)
        if eta == 0.0:
            return alpha_s * x0 + sigma_s * eps
        ratio = alpha_t * sigma_s / (alpha_s * sigma_t)
        fresh = eta * sigma_s * jnp.sqrt(jnp.maximum(1.0 - ratio**2, 0.0))
        kept = jnp.sqrt(jnp.maximum(sigma_s**2 - fresh**2, 0.0))
        return alpha_s * x0 + kept * eps + fresh * at.noise(0)

    return _stateless(step)


def ddpm() -> Sampler:
    """Ancestral sampling with the posterior's variance, Ho et al. 2020 (arXiv 2006.11239), eq. 6 and 7: ddim(eta=1)."""
    return ddim(eta=1.0)
