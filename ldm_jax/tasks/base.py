"""What a task is, and the plainest one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from ldm_jax.diffusion import samplers
from ldm_jax.pretrained.schedulers import SamplingPlan


@runtime_checkable
class Task(Protocol):
    """One way of drawing latents; frozen, so that compiled functions can be keyed by it."""

    def draw(
        self, denoise: Any, plan: SamplingPlan, noise: Float[Array, "b ..."], arrays: Mapping[str, Array], keys: Array
    ) -> Float[Array, "b ..."]:
        """z [b *space c] from standard normal noise of that shape, the task's arrays [b ...] and keys [b].

        denoise: (z, t) -> Estimate, or a StatefulDenoise; plan: sampler, schedule, grid and initial noise.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Generate:
    """From noise alone."""

    def draw(
        self, denoise: Any, plan: SamplingPlan, noise: Float[Array, "b ..."], arrays: Mapping[str, Array], keys: Array
    ) -> Float[Array, "b ..."]:
        """See `Task`; takes no arrays."""
        return samplers.sample(denoise, plan.sampler, plan.schedule, plan.grid, plan.initial(noise), keys)
