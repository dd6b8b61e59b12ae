"""Inpainting with any model: what is known is put back at every step, at that step's noise level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion import editing, samplers
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers import SamplingPlan


@dataclasses.dataclass(frozen=True)
class Inpaint:
    """Replacement, and with jumps RePaint (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1)."""

    jump: int = 0
    """Steps that are gone back up at a time; 0: never."""
    resample: int = 1
    """How often each stretch is walked."""
    strength: float = 1.0
    """Share of the sampler's steps that are walked, in (0, 1]; below 1 it begins with what was there, noised."""
    held: bool = False
    """What is known has the same noise at every step, as diffusers' pipelines have it, not fresh one."""

    def __post_init__(self) -> None:
        if not 0.0 < self.strength <= 1.0:
            raise InputError(f"strength: {self.strength} must be between 0 and 1")
        if self.jump < 0 or self.resample < 1:
            raise InputError(f"jump, resample: {self.jump}, {self.resample} must be at least 0 and 1")

    def draw(
        self, denoise: Any, plan: SamplingPlan, noise: Float[Array, "b ..."], arrays: Mapping[str, Array], keys: Array
    ) -> Float[Array, "b ..."]:
        """See `Task`; arrays: known, clean normalised latents; mask [b *space 1], 1 where to paint."""
        known, mask, z, grid = arrays["known"], arrays["mask"], plan.initial(noise), plan.grid
        if self.strength < 1.0:
            grid = editing.strength_grid(grid, self.strength)
            t = jnp.asarray(grid[0], jnp.float32)
            z = plan.schedule.alpha(t) * known + plan.schedule.sigma(t) * noise
        if not self.jump or self.resample == 1:
            sampler = editing.inpaint(plan.sampler, known, mask, noise if self.held else None)
            return samplers.sample(denoise, sampler, plan.schedule, grid, z, keys)
        path = plan.sampler, plan.schedule, grid
        return editing.repaint(denoise, *path, z, keys, known, mask, self.jump, self.resample)
