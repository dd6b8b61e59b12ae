"""The distributions of training times as choices of an experiment."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, Int

from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.diffusion.times import Kind, sample_times
from ldm_jax.errors import InputError


@runtime_checkable
class TimeRule(Protocol):
    """A distribution of t in [0, 1]."""

    def sample(
        self, keys: Array, *, index: Int[Array, "b"] | None, count: int | None, schedule: Schedule
    ) -> Float[Array, "b"]:
        """Times [b] for keys [b]; index [b] of examples in a global batch of `count`."""
        ...


class _Named:
    kind: ClassVar[Kind]

    def sample(
        self, keys: Array, *, index: Int[Array, "b"] | None, count: int | None, schedule: Schedule
    ) -> Float[Array, "b"]:
        """See `sample_times`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return sample_times(self.kind, keys, schedule=schedule, index=index, count=count, **options)


def _check(mean: float, std: float) -> None:
    if not math.isfinite(mean):
        raise InputError(f"process.times.mean: {mean} must be a finite number")
    if not 0.0 < std < math.inf:
        raise InputError(f"process.times.std: {std} must be positive and finite")


@dataclasses.dataclass(frozen=True)
class Uniform(_Named):
    """Uniform on [0, 1)."""

    kind: ClassVar[Kind] = "uniform"


@dataclasses.dataclass(frozen=True)
class Stratified(_Named):
    """Uniform, each example of the global batch in a slice of its own."""

    kind: ClassVar[Kind] = "stratified"


@dataclasses.dataclass(frozen=True)
class LogitNormal(_Named):
    """sigmoid of a normal number: Esser et al. 2024 (arXiv 2403.03206), eq. 19."""

    kind: ClassVar[Kind] = "logit_normal"

    mean: float = 0.0
    """Mean of logit(t); positive is noisier."""
    std: float = 1.0
    """Standard deviation of logit(t)."""

    def __post_init__(self) -> None:
        _check(self.mean, self.std)


@dataclasses.dataclass(frozen=True)
class Mode(_Named):
    """Heavier at the ends or the middle: eq. 20 there."""

    kind: ClassVar[Kind] = "mode"

    scale: float = 1.29
    """In [-1, 1.75]; positive favours the middle."""

    def __post_init__(self) -> None:
        if not -1.0 <= self.scale <= 1.75:
            raise InputError(f"process.times.scale: {self.scale} must be in [-1, 1.75]")


@dataclasses.dataclass(frozen=True)
class CosMap(_Named):
    """A uniform log-SNR of the cosine schedule, on the flow path: eq. 21 there."""

    kind: ClassVar[Kind] = "cosmap"


@dataclasses.dataclass(frozen=True)
class LogNormal(_Named):
    """log(sigma / alpha) normal: Karras et al. 2022 (arXiv 2206.00364), table 1."""

    kind: ClassVar[Kind] = "log_normal"

    mean: float = -1.2
    """Mean of log(sigma / alpha)."""
    std: float = 1.2
    """Its standard deviation."""

    def __post_init__(self) -> None:
        _check(self.mean, self.std)


TimeSampler: TypeAlias = Uniform | Stratified | LogitNormal | Mode | CosMap | LogNormal
"""All of them; a new one is one more class here."""
