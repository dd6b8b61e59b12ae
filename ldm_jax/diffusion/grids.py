"""Grids: the descending times that a sampler visits, the end included (n steps are n + 1 times).

Those named after noise levels (`karras`, `exponential`, `lu`, `beta`) are made in sigma / alpha and read back as times
of a schedule. All end at t = 0 unless told otherwise. Everything is computed on the host in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.diffusion.precision import widened
from ldm_jax.diffusion.schedules import EDM, DiscreteBetas, Schedule, time
from ldm_jax.errors import InputError

Grid = Float[Array, "n"]

SLACK = 1e-5
"""How far beyond [0, 1] rounding may take a time."""


def _steps(steps: int) -> int:
    if int(steps) != steps or steps < 1:
        raise InputError(f"steps: {steps!r} is not a positive integer")
    return int(steps)


def _rows(steps: int, total: int) -> int:
    """The steps, if a table of `total` rows has as many different ones."""
    if _steps(steps) > total:
        raise InputError(f"steps: {steps} must be at most {total}, the rows of the table that this grid visits")
    return int(steps)


def _shift(s: float) -> float:
    if not 0.0 < s < math.inf:
        raise InputError(f"s: {s!r} must be a positive number")
    return s


def check(grid: Array | np.ndarray, *, repeats: bool = False) -> None:
    """Refuses what is no grid: two or more descending times in [0, 1]; says nothing about a traced one.

    repeats: a time may come several times, as for samplers that evaluate there more than once (`pndm_grid`).

    Raises:
      InputError: shape, order, repeated times, or values that are no times.
    """
    if isinstance(grid, jax.core.Tracer):
        return
    values = np.asarray(grid)
    if values.ndim != 1 or values.shape[0] < 2:
        raise InputError(f"grid: shape {values.shape} is not that of two or more times")
    gaps, text = np.diff(values.astype(np.float64)), np.array2string(values, precision=3, threshold=8)
    if not np.all(gaps <= 0):
        raise InputError(f"grid: {text} is not a descending list of times")
    if not repeats and not np.all(gaps < 0):
        raise InputError(f"grid: {text} holds {values[:-1][gaps == 0][0]:.6g} more than once; take fewer steps")
    if not (values[0] <= 1.0 + SLACK and values[-1] >= -SLACK):
        raise InputError(f"grid: {text} does not lie in [0, 1]")


def linspace(steps: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """steps + 1 equally spaced times from start down to end."""
    if not 0.0 <= end < start <= 1.0:
        raise InputError(f"start, end: {start!r}, {end!r} must be two falling times in [0, 1]")
    return jnp.asarray(np.linspace(start, end, _steps(steps) + 1))


def shifted(grid: Grid, s: float) -> Grid:
    """Moves times towards the noise: t' = s t / (1 + (s - 1) t). Esser et al. 2024 (arXiv 2403.03206), eq. 23."""
    grid = jnp.asarray(grid)
    grid = grid.astype(widened(grid.dtype))
    return _shift(s) * grid / (1.0 + (s - 1.0) * grid)


def stretched(times: np.ndarray, terminal: float) -> np.ndarray:
    """Descending times [n] with the last one moved to `terminal` and the others in proportion to 1 - t (LTX-Video).

    A grid of one step has no other time to keep its beginning, so its only one stays where it is; so do equal times.
    """
    if not 0.0 <= terminal < 1.0:
        raise InputError(f"terminal: {terminal!r} must be at least 0 and less than 1")
    if len(times) == 1 or times[-1] >= 1.0:
        return times
    return 1.0 - (1.0 - times) * (1.0 - terminal) / (1.0 - times[-1])


def leading(steps: int, total: int = 1000, offset: int = 0) -> Grid:
    """Table indices 0, r, 2 r, ... + offset with r = total // steps, as times (index + 1) / total, then 0.

    Lin et al. 2023 (arXiv 2305.08891), table 2, "Leading". It never visits t = 1 unless steps = total; a single step
    starts nearly clean, where `trailing` starts from noise. An offset that leads past the table's end is cut short.

    Raises:
      InputError: more steps than rows.
    """
    index = np.arange(_rows(steps, total))[::-1] * (total // steps)
    if offset < 0:
        raise InputError(f"offset: {offset!r} must be at least 0")
    return _indices(index + min(offset, total - 1 - index[0]), total)


def trailing(steps: int, total: int = 1000) -> Grid:
    """Table indices total - 1, total - 1 - r, ... with r = total / steps, as times, then 0; it starts at t = 1.

    Lin et al. 2023 (arXiv 2305.08891), table 2, "Trailing".

    Raises:
      InputError: more steps than rows.
    """
    index = np.round(total - np.arange(_rows(steps, total)) * (total / steps)) - 1
    return _indices(index, total)


def _indices(index: np.ndarray, total: int) -> Grid:
    return jnp.asarray(np.append((index + 1) / total, 0.0))


def _range(schedule: Schedule, low: float | None, high: float | None) -> tuple[float, float]:
    """The smallest and largest sigma / alpha: given, EDM's own, or those of a table's first and last step."""
    ends = (0.0, math.inf)
    if isinstance(schedule, EDM):
        ends = (schedule.sigma_min, schedule.sigma_max)
    elif isinstance(schedule, DiscreteBetas):
        first, last = np.sqrt(np.expm1(-2.0 * schedule.log_alphas()[[1, -1]]))
        ends = (float(first), float(last))
    low, high = (ends[0] if low is None else low), (ends[1] if high is None else high)
    if not 0 < low < high < np.inf:
        raise InputError(f"sigma_min, sigma_max: ({low}, {high}) are not two finite levels; give both for {schedule!r}")
    return float(low), float(high)


def from_sigmas(schedule: Schedule, sigmas: Any, final: float | None = 0.0) -> Grid:
    """The times at which sigma / alpha has those descending values [n], then the time `final` (None: nothing more).

    Raises:
      InputError: the values are not descending positive numbers.
    """
    levels = np.asarray(sigmas, np.float64)
    if levels.ndim != 1 or not len(levels) or not (levels > 0).all() or not (np.diff(levels) < 0).all():
        raise InputError("sigmas: they must be descending positive numbers [n]")
    times = time(schedule, jnp.asarray(-2.0 * np.log(levels)))
    return times if final is None else jnp.append(times, jnp.asarray(final, times.dtype))


def karras(
    schedule: Schedule,
    steps: int,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final: float | None = 0.0,
) -> Grid:
    """(sigma / alpha)^(1 / rho) equally spaced, then t = 0: Karras et al. 2022 (arXiv 2206.00364), eq. 5."""
    low, high = _range(schedule, sigma_min, sigma_max)
    if not 0.0 < rho < math.inf:
        raise InputError(f"rho: {rho!r} must be a positive number")
    ramp = np.linspace(high ** (1 / rho), low ** (1 / rho), _steps(steps))
    return from_sigmas(schedule, ramp**rho, final)


def exponential(
    schedule: Schedule,
    steps: int,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final: float | None = 0.0,
) -> Grid:
    """log(sigma / alpha) equally spaced, then t = 0: Karras et al.'s grid for rho -> infinity."""
    low, high = _range(schedule, sigma_min, sigma_max)
    return from_sigmas(schedule, np.exp(np.linspace(np.log(high), np.log(low), _steps(steps))), final)


def lu(
    schedule: Schedule,
    steps: int,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final: float | None = 0.0,
) -> Grid:
    """The log-SNR equally spaced: Lu et al. 2022 (arXiv 2206.00927), "uniform logSNR". It is `exponential`."""
    return exponential(schedule, steps, sigma_min, sigma_max, final)


def beta(
    schedule: Schedule,
    steps: int,
    alpha: float = 0.6,
    beta: float = 0.6,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final: float | None = 0.0,
    over: Literal["sigma", "t"] = "sigma",
) -> Grid:
    """Quantiles of Beta(alpha, beta), dense at both ends: Lee et al. 2024 (arXiv 2407.12173), section 3.

    over: what they are laid across, sigma / alpha (as in diffusers and ComfyUI) or t (as in the paper).
    """
    from scipy.special import betaincinv  # a dependency of JAX; slow to import

    if not (0.0 < alpha < math.inf and 0.0 < beta < math.inf):
        raise InputError(f"alpha, beta: {alpha!r}, {beta!r} must be positive numbers")
    if over == "t":
        quantiles = betaincinv(alpha, beta, np.linspace(1.0, 0.0, _steps(steps) + 1))
        return jnp.asarray(quantiles)
    low, high = _range(schedule, sigma_min, sigma_max)
    quantiles = betaincinv(alpha, beta, np.linspace(1.0, 0.0, _steps(steps)))
    return from_sigmas(schedule, low + quantiles * (high - low), final)


AYS: dict[str, tuple[float, ...]] = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}


def ays(schedule: Schedule, steps: int = 10, model: Literal["sd15", "sdxl"] = "sd15") -> Grid:
    """Align Your Steps, Sabour et al. 2024 (arXiv 2404.14507), appendix: the noise levels optimised for a model.

    The tables are for 10 steps; for others log sigma is interpolated, as the authors advise. The last level is then 0.
    """
    if model not in AYS:
        raise InputError(f"model: {model!r} is not one of {', '.join(AYS)}")
    table = np.log(AYS[model])
    places = np.linspace(0.0, 1.0, _steps(steps) + 1)
    sigmas = np.exp(np.interp(places, np.linspace(0.0, 1.0, len(table)), table))
    return from_sigmas(schedule, sigmas[:-1])


def flow(
    steps: int, s: float = 1.0, last: float | None = None, terminal: float | None = None, final: float | None = 0.0
) -> Grid:
    """Times of a flow model: equally spaced from 1 to `last` [n], shifted by s, then `final`.

    last: 1 / steps by default, so that the grid with its final 0 is equally spaced before the shift; Stable Diffusion 3
    uses 1 / 1000. terminal: stretches the shifted times so that the last before `final` is this one (see `stretched`).
    """
    if last is not None and not 0.0 < last <= 1.0:
        raise InputError(f"last: {last!r} must be in (0, 1]")
    times = np.linspace(1.0, 1.0 / _steps(steps) if last is None else last, steps)
    times = _shift(s) * times / (1.0 + (s - 1.0) * times)
    if terminal is not None:
        times = stretched(times, terminal)
    return jnp.asarray(times if final is None else np.append(times, final))


def following(grid: Float[Array, "n"], t: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The largest of a grid's times below t: where a step from there leads; t itself where there is none."""
    times = grid.reshape((1,) * t.ndim + (-1,))
    below = jnp.where(times < t[..., None], times, -jnp.inf).max(axis=-1)
    return jnp.where(jnp.isfinite(below), below, t)


def _plain(make: Callable[..., Grid]) -> Callable[[Schedule, int], Grid]:
    return lambda schedule, steps: make(steps)


GRIDS: dict[str, Callable[[Schedule, int], Grid]] = {
    "linspace": _plain(linspace),
    "leading": lambda schedule, steps: leading(steps, schedule.size if isinstance(schedule, DiscreteBetas) else 1000),
    "trailing": lambda schedule, steps: trailing(steps, schedule.size if isinstance(schedule, DiscreteBetas) else 1000),
    "karras": karras,
    "exponential": exponential,
    "lu": lu,
    "beta": beta,
    "ays_sd15": lambda schedule, steps: ays(schedule, steps, "sd15"),
    "ays_sdxl": lambda schedule, steps: ays(schedule, steps, "sdxl"),
    "flow": _plain(flow),
}
"""(schedule, steps) -> grid, by name."""
