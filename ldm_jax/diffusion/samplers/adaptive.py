"""An adaptive solver: step sizes from an estimate of the error, in one `lax.while_loop`."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.prediction import expand
from ldm_jax.diffusion.samplers.base import Denoise, times_type
from ldm_jax.diffusion.schedules import Schedule, logsnr, time
from ldm_jax.errors import InputError


class Adaptive(NamedTuple):
    """z at the end; how many evaluations each example's path took, accepted and rejected; whether it arrived."""

    z: Float[Array, "b ..."]
    evaluations: Array
    finished: Array


class _Carry(NamedTuple):
    z: Array
    lam: Array
    width: Array
    last: Array
    evaluations: Array
    tries: Array


def sample_adaptive(
    denoise: Denoise,
    schedule: Schedule,
    z: Float[Array, "b ..."],
    *,
    start: float = 1.0,
    end: float = 1e-3,
    form: Literal["x0", "eps"] = "x0",
    rtol: float = 0.05,
    atol: float = 0.0078,
    first_width: float = 0.05,
    safety: float = 0.9,
    max_tries: int = 1000,
) -> Any:
    """DPM-Solver-12: steps of order 2 in lam = log(alpha / sigma), as long as the first-order step agrees.

    Lu et al. 2022 (arXiv 2206.00927), "adaptive step size", with the defaults of their code; form x0 is DPM-Solver++'s.
    denoise: (z [b ...], t [b]) -> Estimate: every example has its own step size, so its path doesn't depend on the
    batch; examples that have arrived are evaluated on, and left alone, until all have. start, end: times with finite
    logsnr, or start at pure noise, which is left at the smallest time whose logsnr is finite. The end is followed by no
    step to t = 0: pass `end` small, or take the estimate's x0 there. Not differentiable in reverse mode (a while loop).
    Two evaluations a try; returns Adaptive.
    """
    if not 0.0 <= end < start <= 1.0 or not (rtol >= 0.0 and atol > 0.0 and first_width > 0.0 and safety > 0.0):
        raise InputError(
            f"start, end, rtol, atol, first_width, safety: {start}, {end}, {rtol}, {atol}, {first_width}, {safety} "
            "must be two falling times in [0, 1] and positive numbers"
        )
    dtype = times_type(z)
    b = z.shape[0]
    lam_start = 0.5 * logsnr(schedule, jnp.asarray(start, dtype))
    # Pure noise: 1 - 1e-3 of the way in time is where DPM-Solver's authors start, too.
    backed = 0.5 * logsnr(schedule, jnp.asarray(start * (1.0 - 1e-3), dtype))
    lam_start = jnp.where(jnp.isfinite(lam_start), lam_start, backed)
    lam_end = 0.5 * logsnr(schedule, jnp.asarray(end, dtype))

    def coefficients(lam: Array) -> tuple[Array, Array, Array]:
        t = jnp.clip(time(schedule, 2.0 * lam), 0.0, 1.0)
        return t, schedule.alpha(t), schedule.sigma(t)

    def advance(z: Array, mean: Array, lam: Array, width: Array) -> Array:
        """DDIM's step with per-example coefficients."""
        _, alpha_a, sigma_a = coefficients(lam)
        _, alpha_b, sigma_b = coefficients(lam + width)
        if form == "x0":
            on_z, on_mean = sigma_b / sigma_a, -alpha_b * jnp.expm1(-width)
        else:
            on_z, on_mean = alpha_b / alpha_a, -sigma_b * jnp.expm1(width)
        return expand(on_z, z) * z + expand(on_mean, z) * mean

    def body(carry: _Carry) -> _Carry:
        width = jnp.minimum(carry.width, lam_end - carry.lam)
        first = getattr(denoise(carry.z, coefficients(carry.lam)[0]), form)
        stage = advance(carry.z, first, carry.lam, 0.5 * width)
        second = getattr(denoise(stage, coefficients(carry.lam + 0.5 * width)[0]), form)
        low = advance(carry.z, first, carry.lam, width)
        high = advance(carry.z, second, carry.lam, width)
        allowed = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(low), jnp.abs(carry.last)))
        error = jnp.sqrt(jnp.mean(((high - low) / allowed).reshape(b, -1) ** 2, axis=1))
        active = carry.lam < lam_end - 1e-6
        accept = active & (error <= 1.0)
        keep = accept.reshape(b, *[1] * (z.ndim - 1))
        # The lower rule's local error is of order 2.
        growth = jnp.clip(safety * jnp.maximum(error, 1e-10) ** -0.5, 0.2, 5.0)
        return _Carry(
            jnp.where(keep, high, carry.z).astype(carry.z.dtype),
            jnp.where(accept, carry.lam + width, carry.lam),
            jnp.where(active, growth * width, carry.width),
            jnp.where(keep, low, carry.last).astype(carry.last.dtype),
            carry.evaluations + 2 * active.astype(jnp.int32),
            carry.tries + 1,
        )

    def unfinished(carry: _Carry) -> Array:
        return jnp.any(carry.lam < lam_end - 1e-6) & (carry.tries < max_tries)

    z = z.astype(dtype)
    lam = jnp.full((b,), lam_start, dtype)
    begin = _Carry(z, lam, jnp.full((b,), first_width, dtype), z, jnp.zeros((b,), jnp.int32), jnp.zeros((), jnp.int32))
    done = jax.lax.while_loop(unfinished, body, begin)
    return Adaptive(done.z, done.evaluations, done.lam >= lam_end - 1e-6)
