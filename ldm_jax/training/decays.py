"""How the learning rate falls: each kind gives an optax schedule from the peak, the warm-up and the stage's steps.

All begin with a linear warm-up from peak / (warmup + 1).
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import jax.numpy as jnp
import optax

from ldm_jax.errors import InputError


def _share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InputError(f"decay.{name}: {value} must be between 0 and 1")


def _warmed(peak: float, warmup: int, after: optax.Schedule) -> optax.Schedule:
    """`after`, whose step 0 is the end of the warm-up."""
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


@dataclasses.dataclass(frozen=True)
class CosineDecay:
    """Half a cosine to `final` x peak at the last step (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5)."""

    final: float = 0.0
    """Learning rate at the last step, as a share of the peak."""

    def __post_init__(self) -> None:
        _share("final", self.final)

    def schedule(self, peak: float, warmup: int, steps: int) -> optax.Schedule:
        """step -> learning rate."""
        return optax.warmup_cosine_decay_schedule(
            init_value=peak / (warmup + 1),
            peak_value=peak,
            warmup_steps=warmup,
            decay_steps=steps,
            end_value=self.final * peak,
        )


@dataclasses.dataclass(frozen=True)
class LinearDecay:
    """A straight line to `final` x peak at the last step."""

    final: float = 0.0
    """Learning rate at the last step, as a share of the peak."""

    def __post_init__(self) -> None:
        _share("final", self.final)

    def schedule(self, peak: float, warmup: int, steps: int) -> optax.Schedule:
        """step -> learning rate."""
        return _warmed(peak, warmup, optax.linear_schedule(peak, self.final * peak, steps - warmup))


@dataclasses.dataclass(frozen=True)
class NoDecay:
    """The peak throughout, so that a run may be extended without a seam."""

    def schedule(self, peak: float, warmup: int, steps: int) -> optax.Schedule:
        """step -> learning rate."""
        return _warmed(peak, warmup, optax.constant_schedule(peak))


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
    """The peak, then a straight line over the last steps (Hu et al. 2024, arXiv 2404.06395, section 4)."""

    share: float = 0.2
    """Of the steps, those in which the rate falls."""
    final: float = 0.0
    """Learning rate at the last step, as a share of the peak."""

    def __post_init__(self) -> None:
        _share("share", self.share)
        _share("final", self.final)

    def schedule(self, peak: float, warmup: int, steps: int) -> optax.Schedule:
        """step -> learning rate."""
        falling = min(max(round(self.share * steps), 1), steps - warmup)
        line = optax.linear_schedule(peak, self.final * peak, falling)
        stable = optax.join_schedules([optax.constant_schedule(peak), line], [steps - warmup - falling])
        return _warmed(peak, warmup, stable)


@dataclasses.dataclass(frozen=True)
class InverseSquareRoot:
    """peak sqrt(warmup / step) after the warm-up (Vaswani et al. 2017, arXiv 1706.03762, eq. 3)."""

    def schedule(self, peak: float, warmup: int, steps: int) -> optax.Schedule:
        """step -> learning rate."""
        start = max(warmup, 1)
        # Schedules that are joined are asked for steps before their beginning, too.
        return _warmed(peak, warmup, lambda step: peak * (start / (start + jnp.maximum(step, 0))) ** 0.5)


Decay: TypeAlias = CosineDecay | LinearDecay | NoDecay | WarmupStableDecay | InverseSquareRoot
