"""Inversion: the noise that the deterministic sampler leads from to an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from ldm_jax.diffusion import editing
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers import SamplingPlan


@dataclasses.dataclass(frozen=True)
class Invert:
    """DDIM inversion (Song et al. 2020, arXiv 2010.02502, section 4.3), with fixed-point iterations."""

    refine: int = 3
    """Iterations a step (Pan et al. 2023, arXiv 2309.04907); each costs an evaluation."""

    def __post_init__(self) -> None:
        if self.refine < 0:
            raise InputError(f"refine: {self.refine} must be at least 0")

    def draw(
        self, denoise: Any, plan: SamplingPlan, noise: Float[Array, "b ..."], arrays: Mapping[str, Array], keys: Array
    ) -> Float[Array, "b ..."]:
        """See `Task`; arrays: known, clean normalised latents. What it gives is z at the grid's first time."""
        return editing.invert(denoise, plan.schedule, plan.grid, arrays["known"], self.refine)
