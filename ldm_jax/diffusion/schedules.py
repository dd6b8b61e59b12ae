"""Noise schedules: z_t = alpha(t) x0 + sigma(t) eps, with t = 0 the data and t = 1 the noise.

A schedule is any object with `alpha(t)` and `sigma(t)`. The classes here are frozen dataclasses, so that they can be
hashed, compared, stored as JSON and closed over by compiled functions. They also know the inverse, `time(logsnr)`,
which the samplers with a stage between two grid times need, and `timestep(t)`, the time in the units that a published
network of that schedule takes.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.diffusion.betas import Kind, betas, log_alphas, zero_terminal
from ldm_jax.diffusion.knots import Knots
from ldm_jax.diffusion.precision import wide_times
from ldm_jax.diffusion.resolution import resolution_shift
from ldm_jax.errors import InputError

__all__ = [
    "EDM",
    "VP",
    "Cosine",
    "DiscreteBetas",
    "Knots",
    "RectifiedFlow",
    "Rescaled",
    "Schedule",
    "Shifted",
    "betas",
    "logsnr",
    "resolution_shift",
    "shift",
    "time",
    "timestep",
    "zero_terminal_snr",
]

Times = Float[Array, "*b"]


@runtime_checkable
class Schedule(Protocol):
    """The two coefficients of the forward process; any shape of `t` in, the same shape out, in float32 at least."""

    def alpha(self, t: Times) -> Times:
        """Signal coefficient, 1 at t = 0."""
        ...

    def sigma(self, t: Times) -> Times:
        """Noise coefficient, 0 at t = 0 (or the schedule's smallest level)."""
        ...


def logsnr(schedule: Schedule, t: Times) -> Times:
    """log(alpha^2 / sigma^2), Kingma et al. 2021 (arXiv 2107.00630), eq. 2: +inf at a clean end, -inf at a pure one."""
    return 2.0 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))


def time(schedule: Schedule, logsnr: Times) -> Times:
    """The t with that logsnr, the inverse of `logsnr`; any real number in, infinities included.

    In closed form (or by the table) where the schedule has `time`, else by bisection of [0, 1].
    """
    own = getattr(schedule, "time", None)
    if own is not None:
        return own(logsnr)
    wanted = wide_times(logsnr)

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        clean = 2.0 * (jnp.log(schedule.alpha(middle)) - jnp.log(schedule.sigma(middle))) > wanted
        return jnp.where(clean, middle, low), jnp.where(clean, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(wanted), jnp.ones_like(wanted)))
    return 0.5 * (low + high)


def timestep(schedule: Schedule, t: Times) -> Times:
    """t in the units that networks of this schedule take: indices 0..N-1, 1000 t for flows, log(sigma) / 4 for EDM."""
    own = getattr(schedule, "timestep", None)
    return 1000.0 * wide_times(t) if own is None else own(t)


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
    """Straight paths between data and noise: alpha = 1 - t, sigma = t.

    Liu et al. 2022 (arXiv 2209.03003), eq. 1; Lipman et al. 2023 (arXiv 2210.02747), eq. 22 with sigma_min = 0.
    scale: the network's timestep at t = 1.
    """

    scale: float = 1000.0

    def __post_init__(self) -> None:
        _check_positive("RectifiedFlow", scale=self.scale)

    def alpha(self, t: Times) -> Times:
        return 1.0 - wide_times(t)

    def sigma(self, t: Times) -> Times:
        return wide_times(t)

    def time(self, logsnr: Times) -> Times:
        """The time in [0, 1] at which log(alpha² / sigma²) is logsnr; the inverse of `logsnr`."""
        return jax.nn.sigmoid(-0.5 * wide_times(logsnr))

    def timestep(self, t: Times) -> Times:
        return self.scale * wide_times(t)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Variance preserving on a quarter circle: alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Salimans & Ho 2022 (arXiv 2202.00512), appendix D, t being the angle; the same as SiT's generalised VP path, "GVP"
    (Ma et al. 2024, arXiv 2401.08740, section 2).
    """

    def alpha(self, t: Times) -> Times:
        # sin of the complement is exactly 0 at t = 1, where cos(pi / 2) is 6e-17 or -4e-8.
        return jnp.sin(0.5 * jnp.pi * (1.0 - wide_times(t)))

    def sigma(self, t: Times) -> Times:
        return jnp.sin(0.5 * jnp.pi * wide_times(t))

    def time(self, logsnr: Times) -> Times:
        return jnp.arctan(jnp.exp(-0.5 * wide_times(logsnr))) * (2.0 / jnp.pi)

    def timestep(self, t: Times) -> Times:
        return 1000.0 * wide_times(t)


@dataclasses.dataclass(frozen=True)
class VP:
    """The variance-preserving SDE with a linear rate beta(t) from beta_min to beta_max; also SiT's VP path.

    Song et al. 2021 (arXiv 2011.13456), eq. 33: log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta_min < self.beta_max < math.inf:
            raise InputError(f"VP: beta_min, beta_max: {self.beta_min}, {self.beta_max} must be two rising rates")

    def log_alpha(self, t: Times) -> Times:
        """log alpha(t), where alpha itself would underflow (Song et al. 2021, arXiv 2011.13456, equation 33)."""
        t = wide_times(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Times) -> Times:
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Times) -> Times:
        return _root(-jnp.expm1(2.0 * self.log_alpha(t)))

    def time(self, logsnr: Times) -> Times:
        # log alpha = -softplus(-logsnr) / 2, then the positive root of the quadratic, in the form without cancellation.
        depth = 2.0 * jax.nn.softplus(-wide_times(logsnr))
        slope = self.beta_max - self.beta_min
        return depth / (self.beta_min + jnp.sqrt(self.beta_min**2 + slope * depth))

    def timestep(self, t: Times) -> Times:
        return 1000.0 * wide_times(t)


@dataclasses.dataclass(frozen=True)
class EDM:
    """Variance exploding: alpha = 1, sigma = sigma_max t^rho, so that equal steps in t are Karras et al.'s grid.

    Karras et al. 2022 (arXiv 2206.00364), table 1 (column "Ours") and eq. 5: sigma^(1/rho) is linear in t. sigma_min is
    the smallest level a grid visits before 0, at t = (sigma_min / sigma_max)^(1/rho), see `grids.karras`.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_positive("EDM", sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)
        if self.sigma_min > self.sigma_max:
            raise InputError(f"EDM: sigma_min: {self.sigma_min} must be at most sigma_max, {self.sigma_max}")

    def alpha(self, t: Times) -> Times:
        return jnp.ones_like(wide_times(t))

    def sigma(self, t: Times) -> Times:
        return self.sigma_max * wide_times(t) ** self.rho

    def time(self, logsnr: Times) -> Times:
        return jnp.exp(-(0.5 * wide_times(logsnr) + math.log(self.sigma_max)) / self.rho)

    def timestep(self, t: Times) -> Times:
        """c_noise of the paper's table 1."""
        return 0.25 * (math.log(self.sigma_max) + self.rho * jnp.log(wide_times(t)))


@dataclasses.dataclass(frozen=True)
class DiscreteBetas:
    """A table of N betas, read at continuous t by interpolating log alpha.

    Step i in 0..N-1 of the table stands at t = (i + 1) / N; t = 0 is the clean image (alpha = 1). Ho et al. 2020
    (arXiv 2006.11239), eq. 4: alpha_i^2 = prod_{j <= i} (1 - beta_j), sigma^2 = 1 - alpha^2. `table` overrides kind,
    start, end and steps with betas of one's own. zero_snr: see `zero_terminal_snr`.
    """

    kind: Kind = "scaled_linear"
    start: float = 0.00085
    end: float = 0.012
    steps: int = 1000
    zero_snr: bool = False
    table: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _table(self)

    @property
    def size(self) -> int:
        """N."""
        return len(self.table) if self.table is not None else self.steps

    def log_alphas(self) -> np.ndarray:
        """log alpha at the N + 1 steps, float64; -inf at the last with zero_snr."""
        return _table(self)

    def log_alpha(self, t: Times) -> Times:
        t = wide_times(t)
        table = _table(self)
        place = t * self.size
        if not self.zero_snr:
            return jnp.interp(place, jnp.arange(self.size + 1, dtype=t.dtype), jnp.asarray(table, t.dtype))
        # The last interval ends at log 0, so there alpha itself is interpolated.
        left = table[-2]
        body = jnp.interp(place, jnp.arange(self.size, dtype=t.dtype), jnp.asarray(table[:-1], t.dtype))
        rest = jnp.clip(self.size - place, 0.0, 1.0)
        return jnp.where(place > self.size - 1, left + jnp.log(rest), body)

    def _ending(self, t: Times) -> tuple[Array, Times]:
        """With zero_snr, whether t is in the table's last interval, and alpha there: a line to 0, with its slope."""
        place = wide_times(t) * self.size
        rest = jnp.clip(self.size - place, 0.0, 1.0)
        return place > self.size - 1, math.exp(_table(self)[-2]) * rest

    def alpha(self, t: Times) -> Times:
        if not self.zero_snr:
            return jnp.exp(self.log_alpha(t))
        last, line = self._ending(t)
        return jnp.where(last, line, jnp.exp(self.log_alpha(jnp.where(last, 0.0, wide_times(t)))))

    def sigma(self, t: Times) -> Times:
        if not self.zero_snr:
            return _root(-jnp.expm1(2.0 * self.log_alpha(t)))
        last, line = self._ending(t)
        body = 2.0 * self.log_alpha(jnp.where(last, 0.0, wide_times(t)))
        return _root(jnp.where(last, 1.0 - line**2, -jnp.expm1(body)))

    def time(self, logsnr: Times) -> Times:
        logsnr = wide_times(logsnr)
        wanted = -0.5 * jax.nn.softplus(-logsnr)
        table = _table(self)
        if not self.zero_snr:
            rows = jnp.arange(self.size + 1, dtype=logsnr.dtype)
            return jnp.interp(-wanted, jnp.asarray(-table, logsnr.dtype), rows) / self.size
        rows = jnp.arange(self.size, dtype=logsnr.dtype)
        body = jnp.interp(-wanted, jnp.asarray(-table[:-1], logsnr.dtype), rows)
        last = self.size - jnp.exp(jnp.minimum(wanted - table[-2], 0.0))
        return jnp.where(wanted < table[-2], last, body) / self.size

    def timestep(self, t: Times) -> Times:
        return wide_times(t) * self.size - 1.0


def _check_positive(name: str, **values: float) -> None:
    for field, value in values.items():
        if not 0.0 < value < math.inf:
            raise InputError(f"{name}: {field}: {value} must be a positive number")


@lru_cache(maxsize=64)
def _table(schedule: DiscreteBetas) -> np.ndarray:
    if schedule.table is not None:
        table = np.asarray(schedule.table, np.float64)
    else:
        table = betas(schedule.kind, schedule.start, schedule.end, schedule.steps)
    logs = log_alphas(table)
    if schedule.zero_snr:
        with np.errstate(divide="ignore"):
            logs = np.log(zero_terminal(logs))
    return logs


def _root(square: Times) -> Times:
    """sqrt whose derivative at 0 is 0 instead of infinite: nothing downstream may turn into a NaN at the clean end."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


Plain: TypeAlias = RectifiedFlow | Cosine | VP | EDM | DiscreteBetas
"""The schedules that are not made of another."""


@dataclasses.dataclass(frozen=True)
class Shifted:
    """Another schedule with its noise-to-signal ratio multiplied by s at every t: logsnr - 2 log s.

    On RectifiedFlow this is t -> s t / (1 + (s - 1) t), Esser et al. 2024 (arXiv 2403.03206), eq. 23; on Cosine it is
    the shift of Hoogeboom et al. 2023 (arXiv 2301.11093), section 3.1. A table of betas can't be shifted past its last
    step.
    """

    base: Schedule = dataclasses.field(default=RectifiedFlow(), metadata={"hint": Plain})
    """The schedule that is shifted."""
    s: float = 3.0
    """How much more noise there is for the signal; above 1 for larger images."""

    def __post_init__(self) -> None:
        _check_positive("Shifted", s=self.s)

    def inner(self, t: Times) -> Times:
        """The time of the base schedule that t stands for."""
        t = wide_times(t)
        if isinstance(self.base, RectifiedFlow):
            return self.s * t / (1.0 + (self.s - 1.0) * t)
        # The ends stay where they are; their logsnr is infinite, and its derivative nothing.
        between = (self.base.alpha(t) > 0) & (self.base.sigma(t) > 0)
        safe = jnp.where(between, t, 0.5)
        return jnp.where(between, time(self.base, logsnr(self.base, safe) - 2.0 * math.log(self.s)), t)

    def alpha(self, t: Times) -> Times:
        return self.base.alpha(self.inner(t))

    def sigma(self, t: Times) -> Times:
        return self.base.sigma(self.inner(t))

    def time(self, logsnr: Times) -> Times:
        return time(self.base, wide_times(logsnr) + 2.0 * math.log(self.s))

    def timestep(self, t: Times) -> Times:
        return timestep(self.base, self.inner(t))


def shift(schedule: Schedule, s: float) -> Schedule:
    """`schedule` with s times as much noise for its signal at every t; s > 1 is for larger images. See `Shifted`."""
    if not 0.0 < s < math.inf:
        raise InputError(f"s: {s!r} is not a positive number")
    return Shifted(schedule, float(s))


@dataclasses.dataclass(frozen=True)
class Rescaled:
    """A VP schedule that ends in pure noise: alpha' = (alpha - alpha(1)) / (1 - alpha(1)), sigma'^2 = 1 - alpha'^2."""

    base: Schedule = dataclasses.field(default=VP(), metadata={"hint": Plain})
    """The schedule that is rescaled."""

    def __post_init__(self) -> None:
        if isinstance(self.base, EDM | RectifiedFlow):
            raise InputError(f"Rescaled: base: {self.base!r} must preserve variance, as VP, Cosine and tables do")

    def alpha(self, t: Times) -> Times:
        t = wide_times(t)
        last = self.base.alpha(jnp.ones_like(t))
        return (self.base.alpha(t) - last) / (1.0 - last)

    def sigma(self, t: Times) -> Times:
        alpha = self.alpha(t)
        return _root((1.0 - alpha) * (1.0 + alpha))

    def timestep(self, t: Times) -> Times:
        return timestep(self.base, t)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The variance-preserving `schedule` rescaled so that alpha(1) = 0: no signal left at the last step.

    Lin et al. 2023 (arXiv 2305.08891), algorithm 1. A table keeps its first noisy step; a continuous schedule its clean
    end. RectifiedFlow and Cosine come back as they are.
    """
    if isinstance(schedule, DiscreteBetas):
        return dataclasses.replace(schedule, zero_snr=True)
    if isinstance(schedule, RectifiedFlow | Cosine):
        return schedule
    if isinstance(schedule, EDM):
        raise InputError("schedule: EDM keeps alpha = 1 and has no zero terminal SNR")
    return Rescaled(schedule)


ScheduleChoice: TypeAlias = RectifiedFlow | Cosine | VP | EDM | DiscreteBetas | Shifted | Rescaled
"""The schedules that an experiment may name."""
