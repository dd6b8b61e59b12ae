"""Every ODE sampler converges at the order it claims, on data whose denoiser is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import samplers as S
from ldm_jax.diffusion.schedules import Cosine
from tests.diffusion.problems import both, uniform_in_logsnr

SCHEDULE = Cosine()
COUNTS = (8, 16, 32, 64, 128)
BLOCKS = (9, 18, 36, 72, 126)
LENGTH = 132

# name: (sampler, order claimed, the order that the start-up leaves if it is lower)
RULES = {
    "ddim": (S.ddim(), 1, None),
    "euler": (S.euler(), 1, None),
    "euler t": (S.euler("t"), 1, None),
    "heun": (S.heun(), 2, None),
    "heun rho": (S.heun("rho"), 2, None),
    "heun t": (S.heun("t"), 2, None),
    "midpoint": (S.midpoint(), 2, None),
    "midpoint t": (S.midpoint("t"), 2, None),
    "rk4": (S.rk4(), 4, None),
    "rk4 t": (S.rk4("t"), 4, None),
    "edm without churn": (S.edm(s_churn=0.0), 2, None),
    "dpm_2": (S.dpm_2(), 2, None),
    "dpmpp_2s": (S.dpmpp_2s(), 2, None),
    "dpmpp_2m": (S.dpmpp_2m(), 2, None),
    "dpmpp_2m exact": (S.dpmpp_2m("exact"), 2, None),
    "dpm_solver 2": (S.dpm_solver(2, "dpmsolver"), 2, None),
    "dpmpp_3m": (S.dpmpp_3m(), 3, 2),
    "dpmpp_3m published": (S.dpmpp_3m("published"), 2, None),
    "dpm_solver 3": (S.dpm_solver(3, "dpmsolver"), 3, 2),
    "deis 2": (S.deis(2), 2, None),
    "deis 3": (S.deis(3), 3, 2),
    "lms": (S.lms(), 4, 2),
    "plms": (S.plms(), 2, None),
    "unipc 1": (S.unipc(1, lower_order_final=False), 2, None),
    "unipc 2": (S.unipc(2, lower_order_final=False), 3, None),
    "unipc 2 bh1": (S.unipc(2, "bh1", lower_order_final=False), 3, None),
    "unipc 3": (S.unipc(3, lower_order_final=False), 4, 3),
    "unip 3": (S.unipc(3, lower_order_final=False, corrector=False), 3, 2),
    "single 2": (S.dpm_solver_single(2, lower_order_final=False, euler_at_final=False), 2, None),
    "single 3": (S.dpm_solver_single(3, lower_order_final=False, euler_at_final=False), 3, None),
    "single 3 x0": (S.dpm_solver_single(3, "x0", lower_order_final=False, euler_at_final=False), 3, None),
}


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


@pytest.mark.parametrize("name", RULES)
def test_order(name):
    """Slopes of log error over log steps, fitted over 8..128 steps, for the Gaussian and the mixture."""
    sampler, order, limited = RULES[name]
    counts = BLOCKS if name.startswith("single 3") else COUNTS
    make = plain if limited is None else functools.partial(graded, rho=name == "lms")
    make = even if name == "plms" else make
    with jax.enable_x64(True):
        found = [slope(counts, error) for error in errors(sampler, counts, make)]
    assert all(value > order - 0.25 for value in found), found
    # Better than claimed on one of the problems is luck (midpoint on the Gaussian); on both it would be another claim.
    assert min(found) < order + 0.25, found


@pytest.mark.parametrize("name", [name for name, (_, _, limited) in RULES.items() if limited])
def test_start_up_limits(name):
    """Without the short first steps, the first step's order 1 (2 with UniPC's corrector) leaves h^2 (h^3)."""
    sampler, _, limited = RULES[name]
    with jax.enable_x64(True):
        found = errors(sampler, COUNTS, plain)
    assert all(slope(COUNTS, error) > limited - 0.25 for error in found)
    assert all(slope(COUNTS[-2:], error[-2:]) < limited + 0.25 for error in found)
