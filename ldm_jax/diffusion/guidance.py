"""Guidance: functions from denoise to denoise.

`branches` turns a conditional denoiser into a function that gives the conditional and the unconditional estimate at
once; the rules (`classifier_free`, ...) turn such a pair into the plain `denoise(z, t)` that samplers take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.prediction import Estimate, expand
from ldm_jax.diffusion.samplers import Denoise


class Branches(NamedTuple):
    """The estimates with and without the condition."""

    conditional: Estimate
    unconditional: Estimate


Pair: TypeAlias = Callable[[Any, Any], Branches]


def branches(denoise: Callable[[Any, Any, Any], Estimate], cond: Any, null: Any, batched: bool = True) -> Pair:
    """(z, t) -> Branches, from denoise(z, t, cond) and the two conditions, pytrees of arrays [b ...].

    batched: both branches in one call on 2 b examples (faster on accelerators); otherwise in two calls (less memory).
    """

    def pair(z: Float[Array, "b ..."], t: Float[Array, "*b"]) -> Branches:
        if not batched:
            return Branches(denoise(z, t, cond), denoise(z, t, null))
        both = jax.tree.map(lambda c, n: jnp.concatenate([c, n]), cond, null)
        twice = jnp.concatenate([t, t]) if jnp.ndim(t) else t
        out = denoise(jnp.concatenate([z, z]), twice, both)
        return Branches(*(Estimate(*half) for half in zip(*(jnp.split(part, 2) for part in out), strict=True)))

    return pair


def classifier_free(
    pair: Pair,
    scale: float | Float[Array, "*b"],
    interval: tuple[float, float] = (0.0, 1.0),
) -> Denoise:
    """Classifier-free guidance: unconditional + scale (conditional - unconditional); scale 1 is no guidance.

    Ho & Salimans 2022 (arXiv 2207.12598), eq. 6, with scale = w + 1. scale: a number or [b], traced or not. interval:
    the times in which guidance acts (Kynkäänniemi et al. 2024, arXiv 2404.07724, eq. 5); outside it the scale is 1.
    Guiding eps or x0 is the same thing, as the two are affine in each other at fixed z.
    """

    def denoise(z: Float[Array, "b ..."], t: Float[Array, "*b"]) -> Estimate:
        conditional, unconditional = pair(z, t)
        inside = (t >= interval[0]) & (t <= interval[1])
        weight = expand(jnp.where(inside, scale, 1.0), z)
        return jax.tree.map(lambda c, u: u + weight * (c - u), conditional, unconditional)

    return denoise
