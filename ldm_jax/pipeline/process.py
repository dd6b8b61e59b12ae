"""What sampling needs besides a network: our own config's, or that of a published scheduler."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.config import DiffusionConfig
from ldm_jax.diffusion import grids, samplers
from ldm_jax.diffusion.schedules import Cosine, DiscreteBetas, RectifiedFlow, Schedule
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers import SamplingPlan, from_diffusers_scheduler

OWN_SAMPLER = "scheduler"
"""The name that stands for a published scheduler's own sampler."""


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """A published scheduler_config.json, as JSON text so that compiled functions can be keyed by it."""

    text: str

    @property
    def record(self) -> dict[str, Any]:
        """The config."""
        return json.loads(self.text)


def make_schedule(config: DiffusionConfig) -> Schedule:
    """The schedule that a config names."""
    if config.schedule == "rectified_flow":
        return RectifiedFlow()
    if config.schedule == "cosine":
        return Cosine()
    start, end = (0.0001, 0.02) if config.schedule == "linear" else (0.00085, 0.012)
    return DiscreteBetas(config.schedule, start, end)


@dataclasses.dataclass(frozen=True)
class Process:
    """One way of sampling; hashable, so that compiled functions can be keyed by it."""

    diffusion: DiffusionConfig | Scheduler
    sampler: str
    steps: int
    compat: str | None = None
    """"diffusers": the published scheduler retraced to rounding."""
    tokens: int | None = None
    """Tokens of an image, where a scheduler shifts its noise levels by them."""

    def __post_init__(self) -> None:
        published = isinstance(self.diffusion, Scheduler)
        names = (OWN_SAMPLER, *samplers.SAMPLERS) if published else tuple(samplers.SAMPLERS)
        if self.sampler not in names:
            raise InputError(f"sampler: {self.sampler!r} must be one of {', '.join(names)}")
        if self.compat is not None and not (published and self.sampler == OWN_SAMPLER):
            raise InputError(f"compat: {self.compat!r} is for a published scheduler's own sampler")
        if self.steps < 1:
            raise InputError(f"steps: {self.steps} must be at least 1")

    def plan(self) -> SamplingPlan:
        """Schedule, prediction, sampler, grid and initial noise; concrete numbers, also within a compiled function."""
        with jax.ensure_compile_time_eval():
            if isinstance(self.diffusion, Scheduler):
                return self._published(self.diffusion.record)
            schedule = make_schedule(self.diffusion)
            top = schedule.sigma(jnp.ones(()))
            sampler = samplers.SAMPLERS[self.sampler]()
            return SamplingPlan(
                schedule, self.diffusion.prediction, sampler, grids.linspace(self.steps), lambda noise: top * noise
            )

    def _published(self, record: dict[str, Any]) -> SamplingPlan:
        if self.sampler == OWN_SAMPLER:
            return from_diffusers_scheduler(record, self.steps, self.compat, image_seq_len=self.tokens)
        if record.get("_class_name") == "PNDMScheduler":
            # PNDM visits the first times twice, for its warm-up; the levels themselves are DDIM's.
            record = {"clip_sample": False, **record, "_class_name": "DDIMScheduler"}
        plan = from_diffusers_scheduler(record, self.steps, image_seq_len=self.tokens)
        return plan._replace(sampler=samplers.SAMPLERS[self.sampler]())
