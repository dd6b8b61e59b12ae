"""The samplers by name."""

from collections.abc import Callable

from ldm_jax.diffusion.samplers.ancestral import ddim, ddpm, euler_ancestral, euler_maruyama, lcm, tcd
from ldm_jax.diffusion.samplers.base import Sampler
from ldm_jax.diffusion.samplers.multistep import (
    deis,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_sde,
    lms,
    unipc,
)
from ldm_jax.diffusion.samplers.runge_kutta import edm, euler, heun, midpoint, rk4
from ldm_jax.diffusion.samplers.single_step import (
    dpm_2,
    dpm_2_ancestral,
    dpm_solver_single,
    dpmpp_2s,
    dpmpp_2s_ancestral,
    dpmpp_sde,
    plms,
)

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "midpoint": midpoint,
    "rk4": rk4,
    "edm": edm,
    "euler_maruyama": euler_maruyama,
    "dpm_2": dpm_2,
    "dpm_2_ancestral": dpm_2_ancestral,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "dpm_solver": dpm_solver_single,
    "unipc": unipc,
    "deis": deis,
    "lms": lms,
    "plms": plms,
    "lcm": lcm,
    "tcd": tcd,
}
"""The samplers that need nothing but a grid, by name."""
