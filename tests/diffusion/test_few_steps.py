"""Every grid x schedule x sampler at 1, 2 and 3 steps: finite, and from noise to the data where these are one point.

Eager, so that nothing is compiled for each of them: all grids of a schedule are rows of one batch, under `jax.vmap`.
Schedules and samplers are drawn by hypothesis; `pytest -m slow` takes all of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.diffusion import grids, samplers
from ldm_jax.diffusion.prediction import Estimate
from ldm_jax.diffusion.samplers import SAMPLERS
from ldm_jax.diffusion.schedules import EDM, VP, Cosine, DiscreteBetas, RectifiedFlow, Rescaled, Shifted
from ldm_jax.errors import InputError

SCHEDULES = {
    "flow": RectifiedFlow(),
    "shifted": Shifted(Cosine(), 3.0),
    "edm": EDM(),
    "rescaled": Rescaled(VP()),
    "table": DiscreteBetas(),
    "zero_snr": DiscreteBetas(steps=40, zero_snr=True),
}
LEVELS = ("karras", "exponential", "lu", "beta", "ays_sd15", "ays_sdxl")
"""Grids that need a schedule's smallest and largest level, which only some have."""


def every_grid(schedule, steps):
    """[grids, steps + 1] and their names; refusals are of grids without levels alone."""
    found = {}
    for name, make in grids.GRIDS.items():
        try:
            found[name] = np.asarray(make(schedule, steps))
        except InputError:
            assert name in LEVELS, name
    for options in ({"terminal": 0.1}, {"s": 3.0, "last": 0.01}, {"s": 3.0, "terminal": 0.1}):
        found[f"flow{options}"] = np.asarray(grids.flow(steps, **options))
    found["beta over t"] = np.asarray(grids.beta(schedule, steps, over="t"))
    return found


def check_few_steps(name, label, steps):
    schedule, sampler = SCHEDULES[name], SAMPLERS[label]()

    def denoise(z, t):
        # All data are 0.5: the estimate is right at every level, and 0 of eps where there is none.
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return Estimate(jnp.full_like(z, 0.5), (z - alpha * 0.5) / jnp.where(sigma == 0, 1.0, sigma))

    rows = every_grid(schedule, steps)
    for grid, row in rows.items():
        assert row.shape == (steps + 1,), grid
        grids.check(row)
    every = jnp.asarray(np.stack(list(rows.values())))
    alpha, sigma = schedule.alpha(every[:, 0]), schedule.sigma(every[:, 0])
    z = alpha[:, None, None] * 0.5 + sigma[:, None, None] * jnp.asarray([[1.3], [-0.6]])[None]

    def draw(grid, z):
        noise = lambda index, k: jnp.asarray([[0.4], [-0.9]])  # noqa: E731
        return samplers.sample(denoise, sampler, schedule, grid, z, jax.random.key(0), noise=noise)

    with jax.disable_jit():
        got = np.asarray(jax.vmap(draw)(every, z))
    assert np.isfinite(got).all(), dict(zip(rows, got, strict=True))
    if label in EXACT:
        np.testing.assert_allclose(got, 0.5, atol=5e-3)


EXACT = ("ddim", "heun", "dpmpp_2m", "unipc", "deis", "plms")
"""Samplers that lead to the data where these are one point; there are more."""


@settings(max_examples=3, deadline=None)
@given(st.sampled_from(sorted(SCHEDULES)), st.sampled_from(sorted(SAMPLERS)), st.integers(1, 3))
def test_some_schedule_and_sampler_at_few_steps_is_finite_on_every_grid(name, label, steps):
    check_few_steps(name, label, steps)


@pytest.mark.slow
@pytest.mark.parametrize("label", sorted(SAMPLERS))
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_and_sampler_at_few_steps_is_finite_on_every_grid(name, label):
    for steps in (1, 2, 3):
        check_few_steps(name, label, steps)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("label", ["euler_maruyama", "edm", "dpmpp_sde"])
def test_one_step_is_finite(name, label):
    check_few_steps(name, label, 1)


def test_more_steps_than_rows_are_refused():
    for make in (grids.leading, grids.trailing):
        with pytest.raises(InputError, match="steps: 1500 must be at most 1000"):
            make(1500)
        assert len(np.unique(make(1000))) == 1001
    assert len(np.unique(grids.leading(1000, offset=1))) == 1001
    for grid, message in (
        ([1.0, 0.5, 0.5, 0.0], "holds 0.5 more than once"),
        ([1.0, np.nan, 0.0], "is not a descending"),
        ([np.inf, 0.0], "does not lie in"),
        ([0.0, 1.0], "is not a descending"),
    ):
        with pytest.raises(InputError, match=message):
            grids.check(np.asarray(grid))
    assert grids.check(np.asarray([1.0, 0.5, 0.5, 0.0]), repeats=True) is None


def test_a_stretched_step_stays_at_the_noise():
    np.testing.assert_array_equal(grids.flow(1, terminal=0.1), [1.0, 0.0])
    np.testing.assert_allclose(grids.flow(3, terminal=0.1), [1.0, 0.55, 0.1, 0.0], atol=1e-6)
    for times in ([1.0], [1.0, 1.0]):
        np.testing.assert_array_equal(grids.stretched(np.asarray(times), 0.1), times)


def test_a_table_of_one_step_without_signal():
    one = DiscreteBetas(steps=1, zero_snr=True)
    t = jnp.asarray([0.0, 0.5, 1.0])
    np.testing.assert_allclose(one.alpha(t), [1.0, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(one.sigma(t) ** 2, [0.0, 0.75, 1.0], atol=1e-6)
