"""Reverse-time samplers: pairs of pure functions, as in optax, all run by the one `lax.scan` of `sample`.

A sampler never sees a network: it sees `denoise(z, t) -> Estimate` and the schedule's coefficients.
"""

from ldm_jax.diffusion.samplers.ancestral import ddim, ddpm, euler_ancestral, euler_maruyama, lcm, tcd
from ldm_jax.diffusion.samplers.base import (
    Denoise,
    Sampler,
    StatefulDenoise,
    Step,
    example_keys,
    normal,
    sample,
)
from ldm_jax.diffusion.samplers.runge_kutta import euler

__all__ = [
    "Denoise",
    "Sampler",
    "StatefulDenoise",
    "Step",
    "ddim",
    "ddpm",
    "euler",
    "euler_ancestral",
    "euler_maruyama",
    "example_keys",
    "lcm",
    "normal",
    "sample",
    "tcd",
]
