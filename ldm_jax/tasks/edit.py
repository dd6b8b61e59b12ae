"""Image to image: noise is added to what is there, and taken away again (SDEdit)."""

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
class Edit:
    """Meng et al. 2021 (arXiv 2108.01073), algorithm 1; at strength 1 little or nothing of the image is left."""

    strength: float = 0.8
    """Share of the sampler's steps that are walked, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 < self.strength <= 1.0:
            raise InputError(f"strength: {self.strength} must be between 0 and 1")

    def draw(
        self, denoise: Any, plan: SamplingPlan, noise: Float[Array, "b ..."], arrays: Mapping[str, Array], keys: Array
    ) -> Float[Array, "b ..."]:
        """See `Task`; arrays: known, clean normalised latents. The noise is that which `Generate` begins with."""
        grid = editing.strength_grid(plan.grid, self.strength)
        t = jnp.asarray(grid[0], jnp.float32)
        z = plan.schedule.alpha(t) * arrays["known"] + plan.schedule.sigma(t) * noise
        return samplers.sample(denoise, plan.sampler, plan.schedule, grid, z, keys)
