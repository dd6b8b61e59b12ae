"""What all samplers share: the pair of pure functions, one step's data, the one `lax.scan`, and the step's algebra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ldm_jax.diffusion import grids
from ldm_jax.diffusion.precision import checked, widened
from ldm_jax.diffusion.prediction import AnyEstimate
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.errors import InputError
from ldm_jax.seeds import folded


@runtime_checkable
class Denoise(Protocol):
    """A denoiser: (z [b ...], t scalar or [b]) -> Estimate."""

    def __call__(self, z: Array, t: Array, /) -> AnyEstimate:
        """The estimate of x0 and eps at z and t, each of z's shape."""
        ...


State: TypeAlias = Any
Form: TypeAlias = Literal["x0", "eps", "v"]


class StatefulDenoise(NamedTuple):
    """A denoiser with a memory from one evaluation to the next, such as guidance with momentum.

    init(z) -> memory, apply(z, t, memory) -> (Estimate, memory). `sample` threads the memory through its scan.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Array, Array, Any], tuple[AnyEstimate, Any]]


class Step(NamedTuple):
    """One step of a grid, from time t down to time s < t, as a sampler sees it."""

    t: Float[Array, ""]
    s: Float[Array, ""]
    index: Array  # pyright: ignore[reportIncompatibleMethodOverride] (tuple.index, which no one calls)
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] (tuple.count)
    schedule: Schedule
    noise: Callable[[int], Array]
    """noise(k) is standard normal of z's shape, fresh for every step and every k."""


class Order(NamedTuple):
    """The order p of convergence: halving every step divides the error by 2^p.

    strong: the error is the distance to the exact end of the probability-flow ODE from the same noise. weak: for
    samplers of the SDE, that of the mean and the variance of Gaussian data. The convergence tests and the table in
    docs/samplers.md read it.
    """

    value: int
    kind: Literal["strong", "weak"] = "strong"
    start: int | None = None
    """The order that remains where the first steps, of lower order, are as long as the others; None: the same."""


class Sampler(NamedTuple):
    """init(z) -> state, step(denoise, z, state, Step) -> (z, state)."""

    init: Callable[[Array], State]
    step: Callable[[Denoise, Array, State, Step], tuple[Array, State]]
    order: Order | None = None
    """None where none is claimed: consistency samplers, wrappers, and settings made to reproduce other code."""
    evaluations: int = 1
    """Evaluations of the denoiser in each step."""
    revisits: bool = False
    """Whether its grids may hold a time more than once, as those of `pndm_grid` do."""


def stateless(step: Callable[[Denoise, Array, Step], Array], order: Order | None, evaluations: int = 1) -> Sampler:
    """A sampler that remembers nothing."""

    def init(z: Array) -> tuple[()]:
        return ()

    def keep(denoise: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        return step(denoise, z, at), state

    return Sampler(init, keep, order, evaluations)


def example_keys(key: Array, n: int) -> Array:
    """[n] keys, one an example: `key` itself if it already is [n], otherwise key folded with 0..n-1."""
    if jnp.issubdtype(key.dtype, jnp.uint32):
        key = jax.random.wrap_key_data(key)
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))


def normal(keys: Array, like: Float[Array, "b ..."], *folds: int | Array) -> Float[Array, "b ..."]:
    """Standard normal noise of like's shape; example i's is a function of keys[i] and the folds alone.

    Raises:
      InputError: `like` is not of floats, or there is not a key for each of its examples.
    """
    checked("z", like)
    if keys.shape[0] != like.shape[0]:
        raise InputError(f"key: {keys.shape[0]} keys must be one, or one for each of {like.shape[0]} examples")
    for fold in folds:
        keys = folded(keys, fold)

    def draw(key: Array) -> Array:
        return jax.random.normal(key, like.shape[1:], like.dtype)

    return jax.vmap(draw)(keys)


def sample(
    denoise: Denoise | StatefulDenoise,
    sampler: Sampler,
    schedule: Schedule,
    grid: Float[Array, "n_plus_1"],
    z: Float[Array, "b ..."],
    key: Array,
    *,
    noise: Callable[[Array, int], Array] | None = None,
    observe: Callable[[Array, Any, Step], Any] | None = None,
    remat: bool = False,
) -> Any:
    """Runs `sampler` down the `grid` from z, noise at time grid[0], to the z at time grid[-1].

    denoise: (z [b ...], t scalar) -> Estimate, or a StatefulDenoise. grid: descending times in [0, 1], each once, the
    end included, so n + 1 times are n steps. key: one, or [b] keys, one an example; example i's noise depends on its
    key alone, not on the batch. noise: (step index, k) -> [b ...] takes the place of the noise drawn from `key`.

    observe: (z after the step, the step's last Estimate, Step) -> pytree; what it returns is stacked over the steps and
    the result is then (z, stacked): previews, or a whole trajectory, without leaving the scan. remat: recompute each
    step in the backward pass, so that a gradient through n steps stores n latents and no network activations.

    Raises:
      InputError: the grid is none (see `grids.check`), or z is not of floats.
    """
    if not isinstance(grid, Tracer):
        grids.check(np.asarray(grid, times_type(z)), repeats=sampler.revisits)
    return run(denoise, sampler, schedule, grid, z, key, noise=noise, observe=observe, remat=remat)


def times_type(z: Array) -> Any:
    """The type of a grid's times for z [b ...], float32 at least: times in bfloat16 would have eight bits.

    Raises:
      InputError: z is not of floats.
    """
    return widened(checked("z", z).dtype)


def run(
    denoise: Denoise | StatefulDenoise,
    sampler: Sampler,
    schedule: Schedule,
    grid: Float[Array, "n_plus_1"],
    z: Float[Array, "b ..."],
    key: Array,
    *,
    noise: Callable[[Array, int], Array] | None = None,
    observe: Callable[[Array, Any, Step], Any] | None = None,
    remat: bool = False,
) -> Any:
    """`sample` without the check that the grid descends: inversion goes up, RePaint goes both ways."""
    keys = example_keys(key, z.shape[0])
    # Times in bfloat16 would have eight bits; steps are taken in the wider type, too, and the denoiser sees z's own.
    wide = times_type(z)
    grid = jnp.asarray(grid, wide)
    count = grid.shape[0] - 1

    def widen(part: Array) -> Array:
        return part.astype(wide)

    def body(carry: tuple[Array, State, Any], xs: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        z, state, memory = carry
        t, s, index = xs
        latest: dict[str, Any] = {"memory": memory, "estimate": None}

        def evaluate(z_t: Array, time: Array, /) -> AnyEstimate:
            if not isinstance(denoise, StatefulDenoise):
                result = denoise(z_t.astype(z.dtype), time)
            else:
                result, latest["memory"] = denoise.apply(z_t.astype(z.dtype), time, latest["memory"])
            result = jax.tree.map(widen, result)
            if observe is not None:
                latest["estimate"] = result
            return result

        def draw(k: int) -> Array:
            return (normal(keys, z, index, k) if noise is None else noise(index, k)).astype(wide)

        at = Step(t, s, index, count, schedule, draw)
        after, state = sampler.step(evaluate, z.astype(wide), state, at)
        after = after.astype(z.dtype)
        seen = None if observe is None else observe(after, latest["estimate"], at)
        return (after, state, latest["memory"]), seen

    start = (z, sampler.init(z), denoise.init(z) if isinstance(denoise, StatefulDenoise) else ())
    scanned = (grid[:-1], grid[1:], jnp.arange(count))
    (z, _, _), seen = jax.lax.scan(jax.checkpoint(body) if remat else body, start, scanned)
    return z if observe is None else (z, seen)


class Point(NamedTuple):
    """A time with its coefficients. lam = log(alpha / sigma), half the log-SNR; infinite at a clean or pure end."""

    t: Float[Array, ""]
    alpha: Float[Array, ""]
    sigma: Float[Array, ""]

    @property
    def lam(self) -> Float[Array, ""]:
        """lambda = log(alpha / sigma), half the log signal-to-noise ratio."""
        return jnp.log(self.alpha) - jnp.log(self.sigma)

    @property
    def rho(self) -> Float[Array, ""]:
        """sigma / alpha, the noise level of variance-exploding diffusion."""
        return self.sigma / self.alpha


def point(schedule: Schedule, t: Float[Array, ""]) -> Point:
    """The Point of `schedule` at t."""
    return Point(t, schedule.alpha(t), schedule.sigma(t))


def ratio(a: Point, b: Point) -> Float[Array, ""]:
    """(sigma_b / alpha_b) / (sigma_a / alpha_a), in [0, 1] for b below a; 0 if b is clean or a pure."""
    below = b.alpha * a.sigma
    return jnp.where(below == 0, 0.0, a.alpha * b.sigma / jnp.where(below == 0, 1.0, below))


def split_noise(a: Point, b: Point, eta: float, hold: Form | None = None) -> tuple[Array, Array | None]:
    """(kept, fresh): how much of b's noise is the old one, how much is new; kept^2 + fresh^2 = sigma_b^2 but for eps.

    DDIM's eq. 16 (Song et al. 2020, arXiv 2010.02502): fresh = eta sigma_b sqrt(1 - ratio^2), which is k-diffusion's
    ancestral step, too. hold: the exact solution of the SDE with eta times DDPM's noise rate while the prediction of
    that form is constant. hold x0: kept = sigma_b ratio^eta; it agrees with DDIM's at eta = 0, where fresh is None, and
    at eta = 1, where both are DDPM's posterior. hold eps: SDE-DPM-Solver, with more than sigma_b in long steps.
    """
    if eta == 0.0:
        return b.sigma, None
    r = ratio(a, b)
    if hold == "eps":
        # fresh^2 = eta (e^2h - 1) sigma_b^2, written without dividing by sigma_b.
        end = b.alpha * a.rho
        return b.sigma - eta * (end - b.sigma), jnp.sqrt(eta * jnp.maximum(end**2 - b.sigma**2, 0.0))
    if hold is not None:
        return b.sigma * r**eta, b.sigma * jnp.sqrt(jnp.maximum(1.0 - r ** (2.0 * eta), 0.0))
    fresh = eta * b.sigma * jnp.sqrt(jnp.maximum(1.0 - r**2, 0.0))
    return jnp.sqrt(jnp.maximum(b.sigma**2 - fresh**2, 0.0)), fresh


def part(form: Form, estimate: Any, at: Point) -> Array:
    """The part of an estimate that a sampler averages over time: x0, eps or v."""
    if form == "x0":
        return estimate.x0
    if form == "eps":
        return estimate.eps
    return at.alpha * estimate.eps - at.sigma * estimate.x0


def advance(
    form: Form, z: Array, mean: Array, a: Point, b: Point, kept: Array | None = None, first: Any = None
) -> Array:
    """DDIM's step from a to b with an averaged prediction: alpha_b x0 + kept eps, where z = alpha_a x0 + sigma_a eps.

    Every sampler of the ODE in this package whose path is straight where the prediction is constant (DPM-Solver,
    DPM-Solver++, UniPC, DEIS, LMS, PNDM, Heun and Euler in sigma) is this step; they differ in `mean`. Song et al. 2020
    (arXiv 2010.02502), eq. 12. kept: sigma_b unless part of the noise is renewed. first: the estimate at (z, a), for
    the form eps at alpha_a = 0, where z says nothing about x0.
    """
    kept = b.sigma if kept is None else kept
    if form == "x0":
        return (kept / a.sigma) * z + (b.alpha - kept * a.alpha / a.sigma) * mean
    if form == "v":
        # In units where alpha^2 + sigma^2 = 1: x0 = alpha z - sigma v, eps = sigma z + alpha v.
        norm = a.alpha**2 + a.sigma**2
        x0, eps = (a.alpha * z - a.sigma * mean) / norm, (a.sigma * z + a.alpha * mean) / norm
        return b.alpha * x0 + kept * eps
    pure = a.alpha == 0
    alpha = jnp.where(pure, 1.0, a.alpha)
    moved = (b.alpha / alpha) * z + (kept - b.alpha * a.sigma / alpha) * mean
    return moved if first is None else jnp.where(pure, b.alpha * first.x0 + kept * first.eps, moved)


def renew(z: Array, fresh: Array | None, at: Step, k: int = 0, scale: float = 1.0) -> Array:
    """z plus new noise of standard deviation `fresh`."""
    return z if fresh is None else z + scale * fresh * at.noise(k)
