"""Exponential Runge-Kutta samplers: one or two stages between the times of the grid, or the grid's own times as stages.

All are `advance` with a mean of the stages' predictions, see `multistep`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ldm_jax.diffusion import grids
from ldm_jax.diffusion.samplers.base import (
    Denoise,
    Form,
    Order,
    Point,
    Sampler,
    State,
    Step,
    advance,
    part,
    point,
    renew,
    split_noise,
    stateless,
)
from ldm_jax.diffusion.samplers.multistep import History, mean_weights
from ldm_jax.diffusion.schedules import time
from ldm_jax.errors import InputError


def _stage(at: Step, a: Point, width: Array, share: float) -> tuple[Array, Point]:
    """Whether a step of that width in lam has a second stage, and where: at `share` of it, or else at a."""
    inner = jnp.isfinite(width)
    t = jnp.where(inner, time(at.schedule, 2.0 * jnp.where(inner, a.lam + share * width, 0.0)), at.t)
    return inner, point(at.schedule, t)


def two_stage(form: Form, eta: float = 0.0, middle: float = 0.5, s_noise: float = 1.0) -> Sampler:
    """Two stages, the second at `middle` of the step in lam; order 2, two evaluations a step.

    The mean prediction is (1 - c) f_1 + c f_2 with c = 1 / (2 middle). The form eps is DPM-Solver-2, Lu et al. 2022
    (arXiv 2206.00927), algorithm 1; the form x0 DPM-Solver++(2S), Lu et al. 2022 (arXiv 2211.01095), algorithm 1. With
    eta > 0 the step goes down to less noise than asked for and the rest is drawn, k-diffusion's "ancestral". Steps to a
    clean end, and from pure noise, are DDIM's.
    """
    share = 0.5 / middle

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        kept, fresh = split_noise(a, b, eta)
        estimate = denoise(z, at.t)
        inner, m = _stage(at, a, jnp.log(b.alpha) - jnp.log(kept) - a.lam, middle)
        first = part(form, estimate, a)
        second = part(form, denoise(advance(form, z, first, a, m, None, estimate), m.t), m)
        mean = jnp.where(inner, (1.0 - share) * first + share * second, first)
        return renew(advance(form, z, mean, a, b, kept, estimate), fresh, at, 0, s_noise)

    return stateless(step, Order(2, "strong" if eta == 0.0 else "weak"), 2)


def dpm_2() -> Sampler:
    """k-diffusion's dpm_2: midpoint in log sigma for dy/drho = eps. It is DPM-Solver-2, see `two_stage`. Order 2."""
    return two_stage("eps")


def dpm_2_ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Sampler:
    """dpm_2 down to sigma_down, then noise of sigma_up (k-diffusion)."""
    return two_stage("eps", eta, s_noise=s_noise)


def dpmpp_2s() -> Sampler:
    """DPM-Solver++(2S), Lu et al. 2022 (arXiv 2211.01095), algorithm 1. Order 2, two evaluations a step."""
    return two_stage("x0")


def dpmpp_2s_ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Sampler:
    """DPM-Solver++(2S) down to sigma_down, then noise of sigma_up (k-diffusion)."""
    return two_stage("x0", eta, s_noise=s_noise)


def dpmpp_sde(eta: float = 1.0, middle: float = 0.5, s_noise: float = 1.0) -> Sampler:
    """k-diffusion's DPM-Solver++ SDE: like `dpmpp_2s_ancestral`, with noise in the inner stage, too.

    The stage is an ancestral step to the middle; the step then takes the mean prediction of both. Lu et al. 2022 (arXiv
    2211.01095) has the SDE. Two evaluations a step; the two noises are drawn independently.
    """
    share = 0.5 / middle

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        estimate = denoise(z, at.t)
        inner, m = _stage(at, a, b.lam - a.lam, middle)
        kept, fresh = split_noise(a, m, eta)
        stage = renew(advance("x0", z, estimate.x0, a, m, kept), fresh, at, 1, s_noise)
        second = denoise(stage, m.t).x0
        mean = jnp.where(inner, (1.0 - share) * estimate.x0 + share * second, estimate.x0)
        kept, fresh = split_noise(a, b, eta)
        return renew(advance("x0", z, mean, a, b, kept), fresh, at, 0, s_noise)

    return stateless(step, Order(1, "weak"), 2)


def single_step_orders(order: int, count: int, lower_final: bool = True) -> np.ndarray:
    """The orders of DPM-Solver's single-step blocks over `count` evaluations: 1, 2, 3, 1, 2, 3, ..., ending lower.

    "DPM-Solver-fast" of Lu et al. 2022 (arXiv 2206.00927), as in the authors' code. Without lower_final
    the blocks are all whole, if they fit.
    """
    if order == 1:
        return np.ones(count, int)
    if lower_final or count % order:
        blocks = {
            (3, 0): ([1, 2, 3] * (count // 3 - 1), [1, 2, 1]),
            (3, 1): ([1, 2, 3] * (count // 3), [1]),
            (3, 2): ([1, 2, 3] * (count // 3), [1, 2]),
            (2, 0): ([1, 2] * (count // 2 - 1), [1, 1]),
            (2, 1): ([1, 2] * (count // 2), [1]),
        }
        body, tail = blocks[order, count % order]
        return np.array([*body, *tail])
    return np.resize(np.arange(1, order + 1), count)


class SingleState(NamedTuple):
    """Outputs within the step, and the latents [b *space c] and time that the step began from."""

    history: History
    z: Array
    t: Array


def dpm_solver_single(
    order: Literal[1, 2, 3] = 3,
    form: Literal["x0", "eps"] = "eps",
    rule: Literal["midpoint", "exact"] = "exact",
    eta: float = 0.0,
    lower_order_final: bool = True,
    euler_at_final: bool = True,
) -> Sampler:
    """DPM-Solver's single-step form laid over a grid: the grid's times inside a block are the block's stages.

    Lu et al. 2022 (arXiv 2206.00927), algorithms 1 and 2 (form eps), arXiv 2211.01095, algorithm 1 (x0). A block of
    order k restarts at its first time and takes k steps of the grid, one evaluation each: the stages come for free at
    times where the grid has them. rule: at order 2 the mean's value at the middle or the exact mean of the line; at
    order 3 the exact mean of the line from the block's start to its last stage (midpoint) or of the parabola (exact).
    euler_at_final: the last step is a block of its own, as it has to be where the grid ends clean.
    """
    rate = 1.0 + eta if form == "x0" else -1.0

    def init(z: Array) -> SingleState:
        dtype = np.promote_types(z.dtype, np.float32)
        return SingleState(History.empty(order, z), z.astype(dtype), jnp.zeros((), dtype))

    def step(denoise: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        table = single_step_orders(order, at.count, lower_order_final)
        if euler_at_final:
            table[-1] = 1
        own = jnp.asarray(table)[at.index]
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        estimate = denoise(z, at.t)
        dtype = state.z.dtype
        fresh_block = own == 1
        base_z = jnp.where(fresh_block, z.astype(dtype), state.z)
        base_t = jnp.where(fresh_block, jnp.asarray(at.t, dtype), state.t)
        base = point(at.schedule, base_t)
        history = state.history.push(part(form, estimate, a), a.lam)
        # Ending clean, only order 1 has a width; so it has in a block of width 0.
        width = b.lam - base.lam
        good = jnp.isfinite(width) & (width != 0)
        nodes = [jnp.where(j < own, node - base.lam, 0.0) for j, node in enumerate(history.nodes)]
        inside = [jnp.asarray(j < own) & good for j in range(order)]
        start = [jnp.asarray(own == j + 1) for j in range(order)]
        line = [(s | (jnp.asarray(j == 0) & good)) for j, s in enumerate(start)]
        parabola = [s | i for s, i in zip(start, inside, strict=True)]
        if rule == "exact":
            weights = mean_weights(nodes, parabola, width, rate, "exact")
        else:
            weights = jnp.where(
                own == 3,
                mean_weights(nodes, line, width, rate, "exact"),
                mean_weights(nodes, line, width, rate, "midpoint"),
            )
        kept, fresh = split_noise(base, b, eta, form)
        moved = advance(form, base_z, history.combine(weights), base, b, kept, estimate)
        return renew(moved, fresh, at), SingleState(history, base_z, base_t)

    # A last block of order 1 leaves an error of order 2.
    reached = min(order, 2) if lower_order_final or euler_at_final else order
    return Sampler(init, step, Order(reached) if eta == 0.0 else Order(1, "weak"))


class Program(NamedTuple):
    """What PNDM does with each evaluation, [n] each; see `pndm`."""

    restart: np.ndarray
    own: np.ndarray
    past: np.ndarray
    carried: np.ndarray
    add: np.ndarray
    push: np.ndarray


ADAMS = np.array(
    [[1.0, 0, 0, 0], [1.5, -0.5, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
)


def _program(count: int, warmup: Literal["heun", "runge_kutta", "none"]) -> Program:
    """own, past [n, 3], carried: weights of the new prediction, the last pushed ones, and a running sum."""
    rows = []
    if warmup == "runge_kutta":
        stages = [(True, 1 / 6, True), (False, 1 / 3, False), (False, 1 / 3, False), (False, 1 / 6, False)]
        for i in range(min(12, count)):
            fresh, add, push = stages[i % 4]
            own, carried = (1 / 6, 1.0) if i % 4 == 3 else (1.0, 0.0)
            rows.append((fresh, own, [0.0] * 3, carried, add, push))
    elif warmup == "heun":
        rows = [(True, 1.0, [0.0] * 3, 0.0, 0.0, True), (False, 0.5, [0.5, 0, 0], 0.0, 0.0, False)][:count]
    seen = sum(row[5] for row in rows)
    while len(rows) < count:
        weights = ADAMS[min(seen, 3)]
        rows.append((True, weights[0], list(weights[1:]), 0.0, 0.0, True))
        seen += 1
    return Program(*(np.array(column) for column in zip(*rows, strict=True)))


class PNDMState(NamedTuple):
    """Past outputs, the sum of those of a warm-up step, the latents [b *space c] and time that it began from."""

    past: Array
    total: Array
    z: Array
    t: Array


def pndm(
    warmup: Literal["heun", "runge_kutta", "none"] = "none",
    form: Form = "eps",
    bases: Sequence[float] | np.ndarray | None = None,
) -> Sampler:
    """Pseudo numerical methods: DDIM's step with Adams-Bashforth's mean of the last four eps.

    Liu et al. 2022 (arXiv 2202.09778), section 3. The weights are those of equal steps, whatever the grid; order 2.
    warmup: how the first three steps get by without a past: lower orders (none; one evaluation a step), latent
    diffusion's PLMS, whose first step is Heun's (heun), or three Runge-Kutta steps (runge_kutta). The last two
    evaluate more often than the grid has steps, so they take a grid from `pndm_grid`. bases: for each evaluation, the
    time at which to take the coefficients of where its step starts, if not the time it started at.
    """

    def init(z: Array) -> PNDMState:
        dtype = np.promote_types(z.dtype, np.float32)
        zero = jnp.zeros(z.shape, dtype)
        return PNDMState(jnp.zeros((3, *z.shape), dtype), zero, zero, jnp.zeros((), dtype))

    def step(denoise: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        program = _program(at.count, warmup)
        dtype = state.z.dtype

        def now(column: np.ndarray) -> Array:
            return jnp.asarray(column)[at.index]

        estimate = denoise(z, at.t)
        new = part(form, estimate, point(at.schedule, at.t)).astype(dtype)
        base_z = jnp.where(now(program.restart), z.astype(dtype), state.z)
        base_t = jnp.where(now(program.restart), jnp.asarray(at.t, dtype), state.t)
        start = base_t if bases is None else now(np.asarray(bases)).astype(dtype)
        base: Point = point(at.schedule, start)
        own, past = now(program.own).astype(dtype), now(program.past).astype(dtype)
        mean = own * new + jnp.tensordot(past, state.past, axes=1) + now(program.carried).astype(dtype) * state.total
        total = jnp.where(now(program.restart), 0.0, state.total) + now(program.add).astype(dtype) * new
        pushed = jnp.concatenate([new[None], state.past[:-1]])
        moved = advance(form, base_z, mean, base, point(at.schedule, at.s), None, estimate)
        return moved, PNDMState(jnp.where(now(program.push), pushed, state.past), total, base_z, base_t)

    order = Order(2) if warmup == "none" and form == "eps" else None
    return Sampler(init, step, order, revisits=warmup != "none")


def plms() -> Sampler:
    """`pndm` without a warm-up: one evaluation a step on any grid. Order 2."""
    return pndm("none")


def pndm_grid(grid: Array, warmup: Literal["heun", "runge_kutta"]) -> Array:
    """The grid [n + 1] with the times that a warm-up of `pndm` visits more than once.

    heun: its second time twice, where it has more than one step. runge_kutta: the first three steps as t, middle,
    middle, s, with s then visited again; the middles are those of the times.

    Raises:
      InputError: the grid is none, or too short for the warm-up.
    """
    grid = jnp.asarray(grid)
    grids.check(grid)
    if warmup == "heun":
        # A single step has no second time that it could average with.
        return grid if grid.shape[0] == 2 else jnp.concatenate([grid[:2], grid[1:]])
    if grid.shape[0] < 5:
        raise InputError(f"steps: {grid.shape[0] - 1} must be at least 4, as three are the warm-up by Runge-Kutta")
    middles = 0.5 * (grid[:3] + grid[1:4])
    head = jnp.stack([grid[:3], middles, middles, grid[1:4]], axis=1).reshape(-1)
    return jnp.concatenate([head, grid[3:]])
