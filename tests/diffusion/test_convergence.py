"""Every sampler converges at the order it claims, on data whose denoiser is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs.tables import ORDERS
from docs.tables import sampler as made
from ldm_jax.diffusion import samplers as S
from ldm_jax.diffusion.prediction import Estimate
from ldm_jax.diffusion.schedules import Cosine
from tests.diffusion.problems import both, uniform_in_logsnr

SCHEDULE = Cosine()
COUNTS = (8, 16, 32, 64, 128)
BLOCKS = (9, 18, 36, 72, 126)
LENGTH = 132
MEAN, VARIANCE = 0.6, 0.5

STRONG = [call for call in ORDERS if made(call).order.kind == "strong"]
WEAK = [call for call in ORDERS if made(call).order.kind == "weak"]


def plain(n):
    return uniform_in_logsnr(SCHEDULE, n)


def graded(n, rho=False):
    """Three more times in the first step, so short that the low orders at the start cost less than h^4.

    Equal steps in log(alpha / sigma), or in sigma / alpha for LMS, whose polynomials are in that.
    """
    times = uniform_in_logsnr(SCHEDULE, n)
    ratio = jnp.tan(0.5 * jnp.pi * times)
    place = jnp.linspace(ratio[0], ratio[-1], n + 1) if rho else jnp.log(ratio)
    short = (place[1] - place[0]) / n ** jnp.array([1.0, 0.5, 0.25])
    place = jnp.concatenate([place[:1], place[0] + short, place[1:]])
    return SCHEDULE.time(-2.0 * (jnp.log(place) if rho else place))


def even(n):
    """Equal steps of t, which PNDM's weights are for."""
    return jnp.linspace(0.75, 0.15, n + 1)


def padded(grid):
    """Steps of width 0 at the end change nothing: one compilation serves all step counts."""
    return jnp.concatenate([grid, jnp.full(LENGTH - grid.shape[0], grid[-1])])


@functools.cache
def start():
    z = jax.random.normal(jax.random.key(3), (32, 2), jnp.float64)
    denoise, grid = both(SCHEDULE), uniform_in_logsnr(SCHEDULE, 2000)
    return z, S.sample(denoise, S.rk4(), SCHEDULE, grid, z, jax.random.key(0))


def errors(sampler, counts, make):
    """Root mean square errors [counts] on the Gaussian and on the mixture."""
    z, exact = start()
    grids = jnp.stack([padded(make(n)) for n in counts])
    key = jax.random.key(0)
    got = jax.jit(jax.vmap(lambda grid: S.sample(both(SCHEDULE), sampler, SCHEDULE, grid, z, key)))(grids)
    squares = np.asarray(((got - exact[None]) ** 2).reshape(len(counts), 2, -1).mean(-1))
    return np.sqrt(squares).T


def slope(counts, error):
    return -np.polyfit(np.log(counts), np.log(error), 1)[0]


def test_every_sampler_claims_an_order():
    """All but consistency samplers, which don't solve the ODE; and what is claimed is measured below."""
    claimed = {make.__name__ for make in S.SAMPLERS.values() if make().order is not None}
    assert claimed == {make.__name__ for make in S.SAMPLERS.values()} - {"lcm", "tcd"}
    assert claimed <= {call.partition("(")[0] for call in ORDERS}


@pytest.mark.parametrize("call", STRONG)
def test_order(call):
    """Slopes of log error over log steps, fitted over 8..128 steps, for the Gaussian and the mixture."""
    sampler = made(call)
    counts = BLOCKS if call.startswith("dpm_solver_single(3") else COUNTS
    make = plain if sampler.order.start is None else functools.partial(graded, rho=call.startswith("lms"))
    make = even if call.startswith("plms") else make
    with jax.enable_x64(True):
        found = [slope(counts, error) for error in errors(sampler, counts, make)]
    assert all(value > sampler.order.value - 0.25 for value in found), found
    # Better than claimed on one of the problems is luck (midpoint on the Gaussian); on both it would be another claim.
    assert min(found) < sampler.order.value + 0.25, found


@pytest.mark.parametrize("call", [call for call in STRONG if made(call).order.start])
def test_start_up_limits(call):
    """Without the short first steps, the first step's order 1 (2 with UniPC's corrector) leaves h^2 (h^3)."""
    sampler = made(call)
    with jax.enable_x64(True):
        found = errors(sampler, COUNTS, plain)
    assert all(slope(COUNTS, error) > sampler.order.start - 0.25 for error in found)
    assert all(slope(COUNTS[-2:], error[-2:]) < sampler.order.start + 0.25 for error in found)


def moments(sampler, grid):
    """Mean and variance at the grid's end, from the exact ones at its start, for data N(MEAN, VARIANCE) on a line.

    There z at the end is affine in z at the start and in each noise, so that its derivatives are all there is to know.
    """

    def denoise(z, t):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        score = (z - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)
        return Estimate(MEAN + alpha * VARIANCE * score, sigma * score)

    def end(z, noise):
        key, each = jax.random.key(0), lambda i, k: noise[i, k][None, None]
        return S.sample(denoise, sampler, SCHEDULE, grid, z[None, None], key, noise=each)[0, 0]

    mean, variance = marginal(grid[0])
    mean, (by_start, by_noise) = jax.value_and_grad(end, (0, 1))(mean, jnp.zeros((grid.shape[0], 2)))
    return jnp.stack([mean, by_start**2 * variance + (by_noise**2).sum()])


def marginal(t):
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    return jnp.stack([alpha * MEAN, alpha**2 * VARIANCE + sigma**2])


@pytest.mark.parametrize("call", WEAK)
def test_weak_order(call):
    """The same for the mean and the variance together, from 32 steps to 128."""
    sampler = made(call)
    with jax.enable_x64(True):
        found = [jax.jit(functools.partial(moments, sampler))(plain(n)) for n in (32, 128)]
        error = [np.linalg.norm(np.asarray(each - marginal(plain(8)[-1]))) for each in found]
    value = slope((32, 128), error)
    assert sampler.order.value - 0.25 < value < sampler.order.value + 0.5, value
