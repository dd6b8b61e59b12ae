"""SamplingPlan: what a scheduler's config is read into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from ldm_jax.diffusion import schedules
from ldm_jax.diffusion.prediction import (
    AnyKind,
    LearnedEstimate,
    estimate,
    expand,
    input_scale,
    split_learned,
)
from ldm_jax.diffusion.samplers import Sampler
from ldm_jax.diffusion.schedules import Schedule


class SamplingPlan(NamedTuple):
    """All that sampling needs besides a network. initial(noise [b ...]) -> z at grid[0]."""

    schedule: Schedule
    prediction: AnyKind
    sampler: Sampler
    grid: Array
    initial: Callable[[Array], Array]

    def denoise(
        self, network: Callable[[Array, Array], Array], timestep: Callable[[Array], Array] | None = None
    ) -> Callable[[Any, Any], Any]:
        """(z, t) -> Estimate, of network(z, timestep) -> output: its input scaled, its timestep in its own units.

        timestep: from t to the network's units; None: the schedule's (0..999 for tables). An output with twice z's
        channels is taken apart into prediction and learned variance.
        """

        def denoise(z, t):
            alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
            scale = expand(input_scale(self.prediction, alpha, sigma), z)
            time = schedules.timestep(self.schedule, t) if timestep is None else timestep(t)
            output = network(scale * z, time)
            if output.shape[-1] != 2 * z.shape[-1]:
                return estimate(self.prediction, output, z, alpha, sigma)
            output, variance = split_learned(output)
            return LearnedEstimate(*estimate(self.prediction, output, z, alpha, sigma), variance)

        return denoise
