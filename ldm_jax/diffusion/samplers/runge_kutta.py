"""Explicit Runge-Kutta rules on the probability-flow ODE, in the variable in which one chooses to see it straight.

The same ODE in three variables, each with d y / d u linear in the estimate:

    flow  y = z / (alpha + sigma), u = sigma / (alpha + sigma), dy/du = eps - x0: any schedule as a RectifiedFlow;
          finite at both ends. On RectifiedFlow itself y = z and u = t
    rho   y = z / alpha, u = sigma / alpha, dy/du = eps: Karras et al. 2022 (arXiv 2206.00364), eq. 1 and 3;
          infinite at alpha = 0
    t     y = z, u = t, dz/dt = alpha' x0 + sigma' eps: SiT, Ma et al. 2024 (arXiv 2401.08740), section 2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ldm_jax.diffusion.prediction import AnyEstimate
from ldm_jax.diffusion.samplers.base import Denoise, Order, Sampler, Step, point, stateless
from ldm_jax.diffusion.schedules import Schedule, time
from ldm_jax.errors import InputError

Variable = Literal["flow", "rho", "t"]


class Tableau(NamedTuple):
    """An explicit Runge-Kutta rule: stage i is at nodes[i], reached with slopes matrix[i]; the step takes weights."""

    nodes: Sequence[float]
    matrix: Sequence[Sequence[float]]
    weights: Sequence[float]
    order: int | None = None


EULER = Tableau((0.0,), ((),), (1.0,), 1)
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5), 2)
MIDPOINT = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0), 2)
RK4 = Tableau((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4)


class Frame(NamedTuple):
    """The functions of one Variable: z / y and u at a time, the slope of an estimate there, the time of a u."""

    scale: Callable[[Array], Array]
    place: Callable[[Array], Array]
    slope: Callable[[AnyEstimate, Array], Array]
    time: Callable[[Array], Array]


def _flow(schedule: Schedule) -> Frame:
    def scale(t: Array) -> Array:
        return schedule.alpha(t) + schedule.sigma(t)

    def place(t: Array) -> Array:
        return schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t))

    def slope(estimate: AnyEstimate, t: Array) -> Array:
        return estimate.eps - estimate.x0

    def when(u: Array) -> Array:
        return time(schedule, 2.0 * (jnp.log1p(-u) - jnp.log(u)))

    return Frame(scale, place, slope, when)


def _rho(schedule: Schedule) -> Frame:
    def place(t: Array) -> Array:
        return schedule.sigma(t) / schedule.alpha(t)

    def slope(estimate: AnyEstimate, t: Array) -> Array:
        return estimate.eps

    def when(u: Array) -> Array:
        return time(schedule, -2.0 * jnp.log(u))

    return Frame(schedule.alpha, place, slope, when)


def _direct(schedule: Schedule) -> Frame:
    def same(t: Array) -> Array:
        return t

    def slope(estimate: AnyEstimate, t: Array) -> Array:
        one = jnp.ones_like(t)
        _, d_alpha = jax.jvp(schedule.alpha, (t,), (one,))
        _, d_sigma = jax.jvp(schedule.sigma, (t,), (one,))
        return d_alpha * estimate.x0 + d_sigma * estimate.eps

    return Frame(jnp.ones_like, same, slope, same)


def frame(variable: Variable, schedule: Schedule) -> Frame:
    """The Frame of `variable` on `schedule`."""
    frames = {"flow": _flow, "rho": _rho, "t": _direct}
    if variable in frames:
        return frames[variable](schedule)
    raise InputError(f"variable: {variable!r} is not one of {', '.join(get_args(Variable))}")


def move(
    denoise: Denoise,
    z: Array,
    t: Array,
    s: Array,
    schedule: Schedule,
    tableau: Tableau,
    variable: Variable,
    clean_stage: bool = False,
) -> Array:
    """z at time s, from z at time t, by one step of the tableau.

    A step that ends without noise is taken by Euler's rule if the tableau would evaluate there (Karras et al. 2022,
    algorithm 1, lines 6 to 8), unless clean_stage; and a step in rho from pure noise by Euler's rule in flow.
    """
    own = frame(variable, schedule)
    a, b = point(schedule, t), point(schedule, s)
    early = (b.sigma == 0) & (max(tableau.nodes) == 1.0) & (not clean_stage)
    if variable == "rho":
        early = early | (a.alpha == 0)
    # Stages of a step that falls back to Euler are computed at t and thrown away: nothing infinite may enter them, not
    # even multiplied by 0, or gradients would be NaN.
    inner = jnp.where(early, t, s)
    u = jnp.where(early, 0.0, own.place(t))
    width = jnp.where(early, 0.0, own.place(inner) - own.place(t))
    scale = own.scale(t)
    y = z / jnp.where(scale == 0, 1.0, scale)
    slopes: list[Array] = []
    estimates: list[AnyEstimate] = []
    for node, row in zip(tableau.nodes, tableau.matrix, strict=True):
        if node == 0.0:
            at, stage = t, z
        else:
            at = inner if node == 1.0 else jnp.where(early, t, own.time(jnp.where(early, 0.5, u + node * width)))
            moved = y + width * sum(c * k for c, k in zip(row, slopes, strict=False) if c)
            stage = jnp.where(early, z, own.scale(at) * moved)
        estimates.append(denoise(stage, at))
        slopes.append(own.slope(estimates[-1], at))
    ends = own.scale(inner) * (y + width * sum(c * k for c, k in zip(tableau.weights, slopes, strict=True) if c))
    euler = z + (s - t) * slopes[0] if variable == "t" else b.alpha * estimates[0].x0 + b.sigma * estimates[0].eps
    return jnp.where(early, euler, ends)


def runge_kutta(tableau: Tableau, variable: Variable = "flow", clean_stage: bool = False) -> Sampler:
    """The sampler of an explicit Runge-Kutta tableau; len(tableau.nodes) evaluations a step.

    variable: see the module. clean_stage: also evaluate the denoiser at sigma = 0, in the last step's stage there;
    velocity networks can be evaluated there, others were never trained there, so by default that step is Euler's. The
    scan's steps are all alike, so the evaluations of that step are still made.
    """
    if variable not in get_args(Variable):
        raise InputError(f"variable: {variable!r} is not one of {', '.join(get_args(Variable))}")

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        return move(denoise, z, at.t, at.s, at.schedule, tableau, variable, clean_stage=clean_stage)

    return stateless(step, None if tableau.order is None else Order(tableau.order), len(tableau.nodes))


def euler(variable: Variable = "flow") -> Sampler:
    """Euler's rule, order 1, one evaluation a step.

    On RectifiedFlow all three variables are the usual Euler on dz/dt = eps - x0 (Liu et al. 2022, arXiv 2209.03003,
    algorithm 1). Elsewhere flow and rho both are ddim(), k-diffusion's Euler; and t is SiT's (Ma et al. 2024, arXiv
    2401.08740), which leaves noise behind where sigma grows like the root of t.
    """
    return runge_kutta(EULER, variable)


def heun(variable: Variable = "flow", clean_stage: bool = False) -> Sampler:
    """Heun's rule, order 2, two evaluations a step. "rho": Karras et al. 2022 (arXiv 2206.00364), algorithm 1."""
    return runge_kutta(HEUN, variable, clean_stage)


def midpoint(variable: Variable = "flow") -> Sampler:
    """The midpoint rule, order 2, two evaluations a step."""
    return runge_kutta(MIDPOINT, variable)


def rk4(variable: Variable = "flow", clean_stage: bool = False) -> Sampler:
    """Kutta's classical rule, order 4, four evaluations a step."""
    return runge_kutta(RK4, variable, clean_stage)


def edm(
    s_churn: float = 40.0, s_min: float = 0.05, s_max: float = 50.0, s_noise: float = 1.003, order: Literal[1, 2] = 2
) -> Sampler:
    """EDM's stochastic sampler, Karras et al. 2022 (arXiv 2206.00364), algorithm 2; defaults of its ImageNet-64.

    Each step first raises the noise by a factor 1 + gamma, gamma = min(s_churn / steps, sqrt(2) - 1) for sigma / alpha
    in [s_min, s_max], then takes Heun's step (order 2; Euler's for 1) in rho. s_churn = 0 is heun("rho").
    """

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        a = point(at.schedule, at.t)
        inside = (a.rho >= s_min) & (a.rho <= s_max)
        gamma = jnp.where(inside, min(s_churn / at.count, 2.0**0.5 - 1.0), 0.0)
        safe = jnp.where(inside, a.rho, 1.0)
        raised = jnp.where(inside, time(at.schedule, -2.0 * jnp.log(safe * (1.0 + gamma))), at.t)
        up = jnp.where(inside, s_noise * safe * jnp.sqrt(gamma * (2.0 + gamma)), 0.0)
        higher = at.schedule.alpha(raised)
        # In y = z / alpha; the product keeps a pure-noise start, alpha = 0, finite.
        ratio = jnp.where(inside, higher / jnp.where(inside, a.alpha, 1.0), 1.0)
        churned = ratio * z + higher * up * at.noise(0)
        return move(denoise, churned, raised, at.s, at.schedule, HEUN if order == 2 else EULER, "rho")

    return stateless(step, Order(order, "strong" if s_churn == 0.0 else "weak"), order)
