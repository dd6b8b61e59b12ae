"""How samples are drawn: settings where nobody says otherwise, and the plan that they and a process make."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from ldm_jax.diffusion import schedules
from ldm_jax.diffusion.grid_choices import GridChoice, Linspace
from ldm_jax.diffusion.guidance_choices import ClassifierFree, GuidanceChoice
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.samplers import SAMPLER_CHOICES, Euler, SamplerChoice
from ldm_jax.diffusion.schedules import RectifiedFlow
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers import SamplingPlan, from_diffusers_scheduler


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """A published scheduler_config.json, as JSON text so that compiled functions can be keyed by it."""

    text: str

    @property
    def record(self) -> dict[str, Any]:
        """The config."""
        return json.loads(self.text)

    @property
    def process(self) -> Process:
        """The process that it samples from, with the network's own time units."""
        record = {key: value for key, value in self.record.items() if key != "use_dynamic_shifting"}
        plan = from_diffusers_scheduler(record, 4)
        schedule: Any = plan.schedule
        shift = float(record.get("shift") or record.get("flow_shift") or 1.0)
        if isinstance(schedule, RectifiedFlow) and shift != 1.0:
            # The grid of a flow is shifted, not its path; training draws its times so, too.
            schedule = schedules.shift(schedule, shift)
        return Process(schedule, plan.prediction, timestep="schedule")


@dataclasses.dataclass(frozen=True)
class OwnSampler:
    """The sampler and the grid of a published scheduler."""

    label: ClassVar[str] = "scheduler"


AnySampler: TypeAlias = SamplerChoice | OwnSampler


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How samples are drawn where nobody says otherwise."""

    sampler: AnySampler = Euler()
    """How one step is made."""
    steps: int = 50
    """Steps of the sampler."""
    grid: GridChoice = Linspace()
    """The times that it visits; a published scheduler has its own."""
    guidance: float = 1.0
    """Guidance scale; 1 is none."""
    rule: GuidanceChoice = ClassifierFree()
    """How the two branches of guidance are put together."""

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise InputError(f"sampling.steps: {self.steps!r} must be a whole number of at least 1")
        if not abs(self.guidance) < float("inf"):
            raise InputError(f"sampling.guidance: {self.guidance} must be a finite number")


def sampler_named(sampler: str | AnySampler, default: AnySampler, published: bool) -> AnySampler:
    """A sampler from its name: "heun", or "scheduler" for a published one's own."""
    if not isinstance(sampler, str):
        return sampler
    if sampler == name_of(default):
        return default
    kinds: dict[str, Any] = {"scheduler": OwnSampler, **SAMPLER_CHOICES} if published else SAMPLER_CHOICES
    if sampler not in kinds:
        raise InputError(f"sampler: {sampler!r} must be one of {', '.join(kinds)}")
    return kinds[sampler]()


def name_of(sampler: AnySampler) -> str:
    """A sampler's name, as `sampler_named` takes it."""
    return type(sampler).label


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way of sampling; hashable, so that compiled functions can be keyed by it."""

    process: Process
    sampler: AnySampler
    steps: Any
    grid: GridChoice = Linspace()
    scheduler: Scheduler | None = None
    """The published scheduler, where the model has one: it gives the grid."""
    compat: str | None = None
    """"diffusers": the published scheduler reproduced to rounding."""
    tokens: int | None = None
    """Tokens of an image, where a scheduler shifts its noise levels by them."""

    def __post_init__(self) -> None:
        if self.compat is not None and not isinstance(self.sampler, OwnSampler):
            raise InputError(f"compat: {self.compat!r} is for a published scheduler's own sampler")
        if type(self.steps) is not int or self.steps < 1:
            raise InputError(f"steps: {self.steps!r} must be a whole number of at least 1")

    def plan(self) -> SamplingPlan:
        """Schedule, prediction, sampler, grid and initial noise; concrete numbers, also within a compiled function."""
        with jax.ensure_compile_time_eval():
            if self.scheduler is not None:
                return self._published(self.scheduler.record)
            process, sampler = self.process, self.sampler
            assert not isinstance(sampler, OwnSampler)
            top = process.schedule.sigma(jnp.ones(()))
            grid = self.grid.make(process.schedule, self.steps)
            return SamplingPlan(process.schedule, process.prediction, sampler.make(), grid, lambda noise: top * noise)

    def _published(self, record: dict[str, Any]) -> SamplingPlan:
        if isinstance(self.sampler, OwnSampler):
            return from_diffusers_scheduler(record, self.steps, self.compat, image_seq_len=self.tokens)
        if record.get("_class_name") == "PNDMScheduler":
            # PNDM visits the first times twice, for its warm-up; the levels themselves are DDIM's.
            record = {"clip_sample": False, **record, "_class_name": "DDIMScheduler"}
        plan = from_diffusers_scheduler(record, self.steps, image_seq_len=self.tokens)
        return plan._replace(sampler=self.sampler.make())

    def denoise(self, plan: SamplingPlan, network: Any) -> Any:
        """(z, t) -> Estimate of network(z, time in its own units)."""
        return plan.denoise(network, None if self.scheduler is not None else self.process.network_time)
