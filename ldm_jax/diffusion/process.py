"""One description of a diffusion process for losses, samplers, editing and published schedulers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ldm_jax.diffusion import schedules
from ldm_jax.diffusion.losses import Distance, distance, dlogsnr, hybrid_vlb, input_perturbation, noise_offset
from ldm_jax.diffusion.precision import alike, wide
from ldm_jax.diffusion.prediction import (
    Kind,
    LearnedEstimate,
    Preconditioning,
    estimate,
    expand,
    input_scale,
    split_learned,
    target,
)
from ldm_jax.diffusion.schedules import DiscreteBetas, RectifiedFlow, ScheduleChoice
from ldm_jax.diffusion.time_choices import LogitNormal, TimeSampler, Uniform
from ldm_jax.diffusion.weightings import Simple, Weighting
from ldm_jax.errors import InputError

VLB = 1e-3
"""Weight of the bound for networks that learn their variance (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 16)."""


@dataclasses.dataclass(frozen=True)
class Process:
    """z_t = alpha(t) x0 + sigma(t) eps, what the network says of it, and how that is judged in training."""

    schedule: ScheduleChoice = RectifiedFlow()
    """alpha and sigma as functions of the time."""
    prediction: Kind | Preconditioning = "flow"
    """What the network outputs."""
    timestep: Literal["time", "schedule"] = "time"
    """The network's time: t in [0, 1], or the schedule's own units (0..999 for tables), as published ones have it."""
    times: TimeSampler | None = None
    """Distribution of the training times; none: logit-normal for flows, uniform for all else."""
    loss: Kind | None = None
    """In which parameterisation the error is taken; another than `prediction` weights it by time. None: the same."""
    weighting: Weighting = Simple()
    """The factor on the error, by noise level."""
    distance: Distance = "squared"
    """Of the error, element by element."""
    huber_delta: float = 1.0
    """Where `distance` huber goes from squares to absolute values."""
    noise_offset: float = 0.0
    """Standard deviation of a constant added to each channel's noise."""
    input_perturbation: float = 0.0
    """Standard deviation of extra noise that the network sees and its target does not have."""

    def __post_init__(self) -> None:
        for field in ("huber_delta", "noise_offset", "input_perturbation"):
            if not 0.0 <= getattr(self, field) < math.inf:
                raise InputError(f"process.{field}: {getattr(self, field)} must be at least 0 and finite")
        if self.distance == "huber" and self.huber_delta == 0.0:
            raise InputError("process.huber_delta: 0 must be positive; distance l1 is what it leads to")
        if self.loss is not None and isinstance(self.prediction, Preconditioning):
            raise InputError(f"process.loss: {self.loss!r} must be none where prediction is a preconditioning")

    @property
    def time_sampler(self) -> TimeSampler:
        """`times`, or what stands for none."""
        if self.times is not None:
            return self.times
        base = getattr(self.schedule, "schedule", self.schedule)
        return LogitNormal() if isinstance(base, RectifiedFlow) else Uniform()

    def sample_times(
        self, keys: Array, index: Int[Array, "b"] | None = None, count: int | None = None
    ) -> Float[Array, "b"]:
        """Training times [b] for keys [b]; on the table where a published network knows only its rows."""
        t = self.time_sampler.sample(keys, index=index, count=count, schedule=self.schedule)
        if self.timestep == "schedule" and isinstance(self.schedule, DiscreteBetas):
            size = self.schedule.size
            t = jnp.clip(jnp.ceil(t * size), 1.0, size) / size
        return t

    def add_noise(
        self, x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], t: Float[Array, "*b"]
    ) -> Float[Array, "b ..."]:
        """z_t, of x0's type; InputError where x0 and eps have different shapes or are not of floats."""
        alike(x0=x0, eps=eps)
        clean, noise = wide("x0", x0), wide("eps", eps)
        z = expand(self.schedule.alpha(t), clean) * clean + expand(self.schedule.sigma(t), clean) * noise
        return z.astype(x0.dtype)

    def noise(self, keys: Array, eps: Float[Array, "b ..."]) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
        """(the noise that z_t is made of, the noise that is to be predicted), from standard normal `eps`; keys [b]."""
        if self.noise_offset:
            eps = noise_offset(keys, eps, self.noise_offset)
        seen = input_perturbation(keys, eps, self.input_perturbation) if self.input_perturbation else eps
        return seen, eps

    def network_time(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """t in the network's own units."""
        return t if self.timestep == "time" else schedules.timestep(self.schedule, t)

    def network_input(self, z: Float[Array, "b ..."], t: Float[Array, "*b"]) -> Float[Array, "b ..."]:
        """z as the network is to see it: scaled where it is preconditioned."""
        if not isinstance(self.prediction, Preconditioning):
            return z
        return expand(input_scale(self.prediction, self.schedule.alpha(t), self.schedule.sigma(t)), z) * z

    def example_loss(
        self,
        output: Float[Array, "b ..."],
        x0: Float[Array, "b ..."],
        eps: Float[Array, "b ..."],
        z_t: Float[Array, "b ..."],
        t: Float[Array, "b"],
    ) -> Float[Array, "b"]:
        """The loss of a network's output at z_t, times and weights included.

        An output with twice x0's channels has a learned variance, whose bound is added (see `hybrid_vlb`).
        """
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        variance = None
        if output.shape[-1] == 2 * x0.shape[-1]:
            output, variance = split_learned(output)
        if self.loss is None or self.loss == self.prediction:
            wanted, found = target(self.prediction, x0, eps, alpha, sigma), output
        else:
            guess = estimate(self.prediction, output, z_t, alpha, sigma)
            found, wanted = target(self.loss, *guess, alpha, sigma), target(self.loss, x0, eps, alpha, sigma)
        loss = distance(self.distance, found, wanted, self.huber_delta)
        if not isinstance(self.weighting, Simple):
            kind = self.prediction if self.loss is None else self.loss
            loss = loss * self.weighting.weight(kind, alpha, sigma, dlogsnr_dt=lambda: dlogsnr(self.schedule, t))
        if variance is not None:
            learned = LearnedEstimate(*estimate(self.prediction, output, z_t, alpha, sigma), variance)
            step = 1.0 / getattr(self.schedule, "size", 1000)
            loss = loss + VLB * hybrid_vlb(learned, x0, z_t, self.schedule, t, jnp.maximum(t - step, 0.0))
        return loss

    def denoise(self, network: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Any]:
        """(z, t) -> Estimate, of network(z, time in its own units) -> output."""

        def denoise(z: Float[Array, "b ..."], t: Float[Array, "*b"]) -> Any:
            alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
            output = network(self.network_input(z, t), self.network_time(t))
            if output.shape[-1] != 2 * z.shape[-1]:
                return estimate(self.prediction, output, z, alpha, sigma)
            output, variance = split_learned(output)
            return LearnedEstimate(*estimate(self.prediction, output, z, alpha, sigma), variance)

        return denoise
