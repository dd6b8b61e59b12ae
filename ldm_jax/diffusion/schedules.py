"""Noise schedules: z_t = alpha(t) x0 + sigma(t) eps, with t = 0 the data and t = 1 the noise.

A schedule is any object with `alpha(t)` and `sigma(t)`; the classes here are frozen dataclasses, so that they can be
hashed, compared, stored as JSON and closed over by compiled functions.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Times = Float[Array, "*b"]


@runtime_checkable
class Schedule(Protocol):
    """The two coefficients of the forward process; any shape of `t` in, the same shape out."""

    def alpha(self, t: Times) -> Times:
        """Signal coefficient, 1 at t = 0."""
        ...

    def sigma(self, t: Times) -> Times:
        """Noise coefficient, 0 at t = 0 (or the schedule's smallest level)."""
        ...


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
    """Straight paths between data and noise: alpha = 1 - t, sigma = t.

    Liu et al. 2022 (arXiv 2209.03003), eq. 1; Lipman et al. 2023 (arXiv 2210.02747), eq. 22 with sigma_min = 0.
    """

    def alpha(self, t: Times) -> Times:
        return 1.0 - t

    def sigma(self, t: Times) -> Times:
        return t


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Variance preserving on a quarter circle: alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Salimans & Ho 2022 (arXiv 2202.00512), section 4 and appendix D; the same as SiT's generalised VP path
    (Ma et al. 2024, arXiv 2401.08740, eq. 12).
    """

    def alpha(self, t: Times) -> Times:
        # sin of the complement is exactly 0 at t = 1, where cos(pi / 2) is 6e-17 or -4e-8.
        return jnp.sin(0.5 * jnp.pi * (1.0 - t))

    def sigma(self, t: Times) -> Times:
        return jnp.sin(0.5 * jnp.pi * t)


def betas(kind: str, start: float, end: float, steps: int) -> np.ndarray:
    """The table beta_1..beta_N in float64.

    linear: Ho et al. 2020 (arXiv 2006.11239), section 4. scaled_linear: latent diffusion's (linear in sqrt beta).
    squaredcos_cap_v2: Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17 with betas capped at 0.999.
    """
    if kind == "linear":
        return np.linspace(start, end, steps, dtype=np.float64)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, steps, dtype=np.float64) ** 2
    if kind == "squaredcos_cap_v2":

        def bar(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        return np.array([min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)])
    raise ValueError(f"kind: {kind!r} is not one of linear, scaled_linear, squaredcos_cap_v2")


@dataclasses.dataclass(frozen=True)
class DiscreteBetas:
    """A table of N betas, read at continuous t by interpolating log alpha.

    Step i in 0..N-1 of the table stands at t = (i + 1) / N; t = 0 is the clean image (alpha = 1). Ho et al. 2020
    (arXiv 2006.11239), eq. 4: alpha_i^2 = prod_{j <= i} (1 - beta_j), sigma^2 = 1 - alpha^2.
    """

    kind: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    start: float = 0.00085
    end: float = 0.012
    steps: int = 1000

    def log_alpha(self, t: Times) -> Times:
        table = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas(self.kind, self.start, self.end, self.steps)))])
        return jnp.interp(t * self.steps, jnp.arange(self.steps + 1), jnp.asarray(table, jnp.asarray(t).dtype))

    def alpha(self, t: Times) -> Times:
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Times) -> Times:
        return jnp.sqrt(-jnp.expm1(2.0 * self.log_alpha(t)))


def logsnr(schedule: Schedule, t: Times) -> Times:
    """log(alpha^2 / sigma^2) at t (Kingma et al. 2021, arXiv 2107.00630, eq. 3): +inf at a clean end, -inf at a pure one."""
    return 2.0 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))
