"""Reverse-time samplers: pairs of pure functions, as in optax, all run by the one `lax.scan` of `sample`.

A sampler never sees a network: it sees `denoise(z, t) -> Estimate` and the schedule's coefficients.
"""

from ldm_jax.diffusion.samplers.adaptive import Adaptive, sample_adaptive
from ldm_jax.diffusion.samplers.ancestral import ddim, ddpm, euler_ancestral, euler_maruyama, lcm, tcd
from ldm_jax.diffusion.samplers.base import (
    Denoise,
    Order,
    Sampler,
    StatefulDenoise,
    Step,
    example_keys,
    normal,
    sample,
)
from ldm_jax.diffusion.samplers.choices import SAMPLER_CHOICES, Euler, SamplerChoice
from ldm_jax.diffusion.samplers.multistep import (
    deis,
    dpm_solver,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_sde,
    lms,
    multistep,
    unipc,
)
from ldm_jax.diffusion.samplers.runge_kutta import Tableau, edm, euler, heun, midpoint, rk4, runge_kutta
from ldm_jax.diffusion.samplers.single_step import (
    dpm_2,
    dpm_2_ancestral,
    dpm_solver_single,
    dpmpp_2s,
    dpmpp_2s_ancestral,
    dpmpp_sde,
    plms,
    pndm,
    pndm_grid,
    two_stage,
)
from ldm_jax.diffusion.samplers.table import SAMPLERS
from ldm_jax.diffusion.samplers.wrappers import clipped, retargeted

__all__ = [
    "SAMPLERS",
    "SAMPLER_CHOICES",
    "Adaptive",
    "Denoise",
    "Euler",
    "Order",
    "Sampler",
    "SamplerChoice",
    "StatefulDenoise",
    "Step",
    "Tableau",
    "clipped",
    "ddim",
    "ddpm",
    "deis",
    "dpm_2",
    "dpm_2_ancestral",
    "dpm_solver",
    "dpm_solver_single",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_2s_ancestral",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "edm",
    "euler",
    "euler_ancestral",
    "euler_maruyama",
    "example_keys",
    "heun",
    "lcm",
    "lms",
    "midpoint",
    "multistep",
    "normal",
    "plms",
    "pndm",
    "pndm_grid",
    "retargeted",
    "rk4",
    "runge_kutta",
    "sample",
    "sample_adaptive",
    "tcd",
    "two_stage",
    "unipc",
]
