"""Linear multistep samplers: DDIM's step with a weighted mean of the last predictions.

The probability-flow ODE is semi-linear. With rho = sigma / alpha and lam = -log rho its exact solution from t to s is
DDIM's step with the prediction replaced by its mean over the step,

    form x0   mean of x0  under the kernel  e^lam       Lu et al. 2022 (arXiv 2211.01095), eq. 8
    form eps  mean of eps under the kernel  e^-lam      Lu et al. 2022 (arXiv 2206.00927), eq. 3.4

and a multistep method takes that mean of the polynomial through the last k predictions. The methods differ in the form,
in the variable in which the polynomial is one (lam, or rho for LMS, where the kernel is 1), and in whether the mean is
exact or replaced by the value at the middle of the step. So there is one function for the weights and one for the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

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
)
from ldm_jax.errors import InputError

Rule: TypeAlias = Literal["exact", "midpoint", "published"]
Rules: TypeAlias = Rule | tuple[Rule, Rule]
"""One rule for all steps, or one for the steps of order 2 and one for those of order 3."""

# 16 nodes integrate a cubic times e^x over steps of |x| <= 15 to 1e-9: fewer cases than the closed forms, and none of
# their cancellation in small steps.
_PLACES, _MASSES = np.polynomial.legendre.leggauss(16)


def _basis(nodes: list[Array], use: list[Array], x: Array) -> Array:
    """The Lagrange polynomials of the nodes in use at x [q]: [k, q]; zero for a node not in use."""
    rows = []
    for j, own in enumerate(nodes):
        row = jnp.ones_like(x)
        for i, other in enumerate(nodes):
            if i != j:
                # `own` may be infinite when not in use.
                both = use[i] & use[j]
                gap = jnp.where(both, own - other, 1.0)
                row = row * jnp.where(both, (x - jnp.where(both, other, 0.0)) / jnp.where(gap == 0, 1.0, gap), 1.0)
        rows.append(jnp.where(use[j], row, 0.0))
    return jnp.stack(rows)


def mean_weights(nodes: list[Array], use: list[Array], width: Array, rate: float, rule: Rule) -> Array:
    """Weights [k], summing to 1, of predictions at `nodes` in the mean over [0, width] under the kernel e^(rate u).

    The polynomial goes through the nodes with `use`. rule: exact, by quadrature; midpoint, the polynomial's value at
    width / 2 (DPM-Solver++(2M), algorithm 2 there); published, exact but for half of the polynomial's curvature, which
    is what the code published for DPM-Solver++(3M) computes.
    """
    safe = jnp.where(jnp.isfinite(width), width, 0.0)
    if rule == "midpoint":
        return _basis(nodes, use, 0.5 * safe[None])[:, 0]
    x = safe * jnp.asarray(0.5 * (_PLACES + 1.0), safe.dtype)
    mass = jnp.asarray(0.5 * _MASSES, safe.dtype) * jnp.exp(rate * x - jnp.maximum(rate * safe, 0.0))
    mass = mass / mass.sum()
    values = _basis(nodes, use, x)
    if rule == "published":
        at_start = jnp.asarray(np.eye(len(nodes))[0], safe.dtype)[:, None]
        values = 0.5 * (values + at_start + 0.5 * (values - _basis(nodes, use, -x)))
    return values @ mass


class History(NamedTuple):
    """The last k predictions, newest first: values [k, b ...], and where they were made: nodes [k]."""

    values: Array
    nodes: Array

    @staticmethod
    def empty(k: int, z: Array) -> History:
        """Room for k values of z's shape; nodes at infinity are none."""
        dtype = np.promote_types(z.dtype, np.float32)
        return History(jnp.zeros((k, *z.shape), dtype), jnp.full((k,), jnp.inf, dtype))

    def push(self, value: Array, node: Array) -> History:
        """The history with a value and its node in front, without the oldest."""
        values = jnp.concatenate([value[None].astype(self.values.dtype), self.values[:-1]])
        return History(values, jnp.concatenate([node[None].astype(self.nodes.dtype), self.nodes[:-1]]))

    def combine(self, weights: Array) -> Array:
        """The sum of the values [k *z] by weights [k]."""
        return jnp.tensordot(weights.astype(self.values.dtype), self.values, axes=1)


def uses(history_nodes: Array, order: Array) -> list[Array]:
    """Which of the nodes, newest first, a polynomial of that order goes through: never one at an infinite place."""
    return [(j < order) & jnp.all(jnp.isfinite(history_nodes[: j + 1])) for j in range(history_nodes.shape[0])]


def look_back(history: History, width: Array, order: Array) -> tuple[list[Array], list[Array], Array]:
    """(nodes, use, order) of the polynomial for a step of that width from the newest node, which lies at 0.

    A step to a clean end and one of width 0 are of order 1.
    """
    order = jnp.where(jnp.isfinite(width) & (width != 0), order, 1)
    use = [jnp.asarray(True), *uses(history.nodes, order)[1:]]
    return [jnp.zeros_like(width), *(node - history.nodes[0] for node in history.nodes[1:])], use, order


def falling_orders(order: int, count: int, lower_final: bool, euler_final: bool = False) -> np.ndarray:
    """The order of each of `count` steps: 1, 2, ... at the start; lower at the end of short grids.

    DPM-Solver's code lowers the last two steps of grids of fewer than 15; euler_final lowers the last of any.
    """
    orders = np.minimum(np.arange(count) + 1, order)
    if lower_final and count < 15:
        orders = np.minimum(orders, np.arange(count, 0, -1))
    if euler_final:
        orders[-1] = 1
    return orders


def multistep(
    order: int,
    form: Form,
    *,
    variable: Literal["lam", "rho"] = "lam",
    rule: Rules = "exact",
    eta: float = 0.0,
    s_noise: float = 1.0,
    orders: Callable[[int], np.ndarray] | None = None,
) -> Sampler:
    """The linear multistep sampler of an order, one evaluation a step; see the module's text.

    orders: count -> [count], the order of each step; by default it grows from 1. The first step, the step to a clean
    end and steps of width 0 are of order 1 anyway, and predictions made in pure noise (lam = -inf) are not looked back
    at. eta > 0 renews noise at eta times DDPM's rate: the kernel of x0 is then e^((1 + eta) lam), that of eps stays.
    """
    if not 1 <= order <= 4:
        raise InputError(f"order: {order!r} is not in 1..4")
    rate = {"x0": 1.0 + eta, "eps": -1.0, "v": 0.0}[form] if variable == "lam" else 0.0
    rules = rule if isinstance(rule, tuple) else (rule, rule)

    def plan(count: int) -> np.ndarray:
        return falling_orders(order, count, lower_final=False) if orders is None else orders(count)

    def place(at: Point) -> Array:
        return at.lam if variable == "lam" else at.rho

    def step(denoise: Denoise, z: Array, history: History, at: Step) -> tuple[Array, History]:
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        estimate = denoise(z, at.t)
        history = history.push(part(form, estimate, a), place(a))
        width = place(b) - place(a)
        nodes, use, now = look_back(history, width, jnp.asarray(plan(at.count))[at.index])
        weights = mean_weights(nodes, use, width, rate, rules[0])
        if rules[1] != rules[0]:
            weights = jnp.where(now > 2, mean_weights(nodes, use, width, rate, rules[1]), weights)
        kept, fresh = split_noise(a, b, eta, form)
        return renew(advance(form, z, history.combine(weights), a, b, kept, estimate), fresh, at, 0, s_noise), history

    # The value at the middle, and half of the curvature, are means of order 2.
    reached = order if rules[order > 2] == "exact" else min(order, 2)
    claim = Order(reached, start=2 if reached > 2 else None) if eta == 0.0 else Order(min(order, 2), "weak")

    def init(z: Array) -> History:
        return History.empty(order, z)

    return Sampler(init, step, claim)


def dpm_solver(
    order: Literal[1, 2, 3] = 2,
    algorithm: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"] = "dpmsolver++",
    rule: Rules = "exact",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Sampler:
    """DPM-Solver in its multistep forms: dpmsolver predicts eps (Lu et al. 2022, arXiv 2206.00927), dpmsolver++ x0.

    rule: see `mean_weights`; midpoint and exact are the authors' solver types "midpoint" and "heun" at order 2. Order 3
    with "published" is their third-order rule, of which the order is 2 (see docs/samplers.md).
    """
    if algorithm not in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"):
        known = "dpmsolver++, dpmsolver, sde-dpmsolver++, sde-dpmsolver"
        raise InputError(f"algorithm: {algorithm!r} is not one of {known}")

    def orders(count: int) -> np.ndarray:
        return falling_orders(order, count, lower_order_final, euler_at_final)

    form: Form = "x0" if algorithm.endswith("++") else "eps"
    made = multistep(order, form, rule=rule, eta=1.0 if algorithm.startswith("sde") else 0.0, orders=orders)
    return made._replace(order=None) if euler_at_final else made


def dpmpp_2m(rule: Rule = "midpoint", lower_order_final: bool = True) -> Sampler:
    """DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), algorithm 2. Order 2, one evaluation a step."""
    return dpm_solver(2, rule=rule, lower_order_final=lower_order_final)


def dpmpp_3m(rule: Rule = "exact", lower_order_final: bool = True) -> Sampler:
    """DPM-Solver++(3M): Lu et al. 2022 (arXiv 2211.01095), eq. 8, with three predictions. Order 3, one evaluation."""
    return dpm_solver(3, rule=rule, lower_order_final=lower_order_final)


def dpmpp_2m_sde(eta: float = 1.0, rule: Rule = "midpoint", s_noise: float = 1.0) -> Sampler:
    """SDE-DPM-Solver++(2M) of Lu et al. 2022 (arXiv 2211.01095); eta is k-diffusion's. One evaluation a step."""
    return multistep(2, "x0", rule=rule, eta=eta, s_noise=s_noise)


def dpmpp_3m_sde(eta: float = 1.0, rule: Rule = "exact", s_noise: float = 1.0) -> Sampler:
    """The third-order companion of `dpmpp_2m_sde`, from k-diffusion ("published" reproduces its code)."""
    return multistep(3, "x0", rule=rule, eta=eta, s_noise=s_noise)


def deis(order: Literal[1, 2, 3] = 3, lower_order_final: bool = False) -> Sampler:
    """DEIS in log rho, Zhang & Chen 2022 (arXiv 2204.13902), rho-AB. Order as given, one evaluation a step.

    The polynomial in log rho integrated over rho is the exact mean under e^-lam: the multistep DPM-Solver in eps.
    """

    def orders(count: int) -> np.ndarray:
        return falling_orders(order, count, lower_order_final)

    return multistep(order, "eps", orders=orders)


def lms(order: Literal[1, 2, 3, 4] = 4) -> Sampler:
    """k-diffusion's linear multistep sampler: Adams-Bashforth for dy/drho = eps, y = z / alpha, on unequal steps.

    The ODE is Karras et al. 2022 (arXiv 2206.00364), eq. 1 and 3. One evaluation a step; its Euler start limits the
    global order to 2 until the steps are small enough for the later ones' to show.
    """
    return multistep(order, "eps", variable="rho")


class UniPCState(NamedTuple):
    """UniPC's history, and the latents [b *space c] and time that its last prediction began from."""

    history: History
    z: Array
    t: Array


def unipc(
    order: Literal[1, 2, 3] = 3,
    variant: Literal["bh1", "bh2"] = "bh2",
    form: Literal["x0", "eps"] = "x0",
    lower_order_final: bool = True,
    corrector: bool = True,
    skip_corrector: tuple[int, ...] = (),
) -> Sampler:
    """UniPC, Zhao et al. 2023 (arXiv 2302.04867), B(h) = h (bh1) or e^h - 1 (bh2). One evaluation a step.

    The evaluation at a predicted z first corrects that z (UniC, an implicit exponential rule through order + 1 nodes)
    and then predicts the next (UniP). From order 3 (predictor) and 2 (corrector) on, B(h) cancels and both are the
    exact means of `mean_weights`; below, the one coefficient is fixed at 1/2 and B(h) matters. Order `order` + 1 with
    the corrector, after its start-up. skip_corrector: steps whose prediction is left uncorrected.
    """
    if variant not in ("bh1", "bh2"):
        raise InputError(f"variant: {variant!r} is not one of bh1, bh2")
    rate = 1.0 if form == "x0" else -1.0

    def gain(width: Array) -> Array:
        """What the coefficient 1/2 is multiplied by, once DDIM's own factor is divided out."""
        if variant == "bh2":
            return jnp.ones_like(width)
        safe = jnp.where((width == 0) | ~jnp.isfinite(width), 1.0, width)
        return -rate * safe / jnp.expm1(-rate * safe)

    def init(z: Array) -> UniPCState:
        dtype = np.promote_types(z.dtype, np.float32)
        return UniPCState(History.empty(order, z), z.astype(dtype), jnp.zeros((), dtype))

    def orders_at(count: int) -> np.ndarray:
        orders = np.minimum(np.arange(count) + 1, order)
        return np.minimum(orders, np.arange(count, 0, -1)) if lower_order_final else orders

    def correct(z: Array, new: Array, state: UniPCState, a: Point, at: Step) -> Array:
        """UniC on the step that led here: z at a, recomputed with the prediction that was made at a."""
        # Before the first step there is none; with a's own point the discarded result stays finite.
        before = point(at.schedule, jnp.where(at.index == 0, at.t, state.t.astype(at.t.dtype)))
        width = a.lam - before.lam
        table = orders_at(at.count)
        now = jnp.asarray(table)[jnp.maximum(at.index - 1, 0)]
        good = jnp.isfinite(width) & (width != 0)
        history = state.history
        shifted = [history.nodes[j] - before.lam for j in range(order)]
        use = [jnp.asarray(True), *[u & good for u in uses(history.nodes, now)]]
        use[1] = jnp.asarray(True)
        nodes = [jnp.where(good, width, 1.0), jnp.zeros_like(width), *shifted[1:]]
        weights = mean_weights(nodes, use, jnp.where(good, width, 1.0), rate, "exact")
        half = 0.5 * gain(width)
        first = jnp.stack([half, 1.0 - half, *[jnp.zeros_like(half)] * (order - 1)])
        weights = jnp.where(now == 1, first, weights)
        values = jnp.concatenate([new[None].astype(history.values.dtype), history.values])
        mean = jnp.tensordot(weights.astype(values.dtype), values, axes=1)
        better = advance(form, state.z, mean, before, a)
        skipped = jnp.asarray([i in skip_corrector for i in range(at.count)])[jnp.maximum(at.index - 1, 0)]
        # The prediction made in pure noise has no place in lam: nothing to correct with.
        return jnp.where((at.index > 0) & good & ~skipped, better, z)

    def step(denoise: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        estimate = denoise(z, at.t)
        new = part(form, estimate, a)
        if corrector:
            z = correct(z, new, state, a, at)
        history = state.history.push(new, a.lam)
        width = b.lam - a.lam
        nodes, use, now = look_back(history, width, jnp.asarray(orders_at(at.count))[at.index])
        weights = mean_weights(nodes, use, width, rate, "exact")
        if order > 1:
            line = mean_weights(nodes[:2], use[:2], width, rate, "midpoint")
            line = jnp.asarray([1.0] + [0.0] * (order - 1), line.dtype) + gain(width) * jnp.concatenate(
                [line - jnp.asarray([1.0, 0.0], line.dtype), jnp.zeros(order - 2, line.dtype)]
            )
            weights = jnp.where(now == 2, line, weights)
        moved = advance(form, z, history.combine(weights), a, b, None, estimate)
        dtype = state.z.dtype
        return moved, UniPCState(history, jnp.asarray(z, dtype), jnp.asarray(at.t, dtype))

    reached = order + corrector
    # A last step of order 1 leaves an error of order 2.
    claim = Order(min(reached, 2)) if lower_order_final else Order(reached, start=2 + corrector if order > 2 else None)
    return Sampler(init, step, claim)
