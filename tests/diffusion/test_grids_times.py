"""Grids that samplers visit, and times that training draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ldm_jax.diffusion import grids, times
from ldm_jax.diffusion.schedules import EDM, Cosine, DiscreteBetas, RectifiedFlow

TABLE = DiscreteBetas()


def ratios(grid, schedule=TABLE):
    return np.asarray(schedule.sigma(grid) / schedule.alpha(grid))


@pytest.mark.parametrize("name", grids.GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 10, 37])
def test_every_grid_descends_to_0(name, steps):
    grid = grids.GRIDS[name](TABLE, steps)
    assert grid.shape == (steps + 1,)
    assert float(grid[-1]) == 0.0
    assert float(grid[0]) <= 1.0
    assert np.all(np.diff(grid) < 0)
    grids.check(grid)


def test_spacings_are_those_of_the_table():
    np.testing.assert_allclose(grids.leading(5) * 1000 - 1, [800, 600, 400, 200, 0, -1], atol=1e-3)
    np.testing.assert_allclose(grids.leading(5, offset=1) * 1000 - 1, [801, 601, 401, 201, 1, -1], atol=1e-3)
    np.testing.assert_allclose(grids.trailing(5) * 1000 - 1, [999, 799, 599, 399, 199, -1], atol=1e-3)
    assert float(grids.leading(1000, offset=1)[0]) == 1.0
    np.testing.assert_allclose(grids.linspace(4), [1.0, 0.75, 0.5, 0.25, 0.0])


def test_noise_levels():
    low, high = 0.03, 14.0
    got = ratios(grids.karras(TABLE, 9, sigma_min=low, sigma_max=high))[:-1] ** (1 / 7)
    np.testing.assert_allclose(np.diff(got), np.diff(got).mean(), rtol=1e-3)
    got = np.log(ratios(grids.exponential(TABLE, 9, low, high))[:-1])
    np.testing.assert_allclose(got, np.linspace(np.log(high), np.log(low), 9), atol=1e-3)
    got = ratios(grids.beta(TABLE, 9, sigma_min=low, sigma_max=high))[:-1]
    np.testing.assert_allclose(got, low + stats.beta.ppf(np.linspace(1, 0, 9), 0.6, 0.6) * (high - low), rtol=1e-3)
    np.testing.assert_allclose(ratios(grids.ays(TABLE, 10))[:-1], grids.AYS["sd15"][:-1], rtol=1e-3)
    edm = grids.karras(EDM(), 6)
    np.testing.assert_allclose(np.diff(edm[:-1]), np.diff(edm[:-1]).mean(), rtol=1e-4)
    np.testing.assert_allclose(EDM().sigma(edm)[jnp.array([0, -2])], [80.0, 0.002], rtol=1e-4)
    with pytest.raises(ValueError, match="give both for"):
        grids.karras(RectifiedFlow(), 5)


def test_flow_grids():
    np.testing.assert_allclose(grids.flow(4, 3.0), grids.shifted(grids.linspace(4), 3.0), rtol=1e-6)
    assert float(grids.flow(4, 3.0, terminal=0.1)[-2]) == pytest.approx(0.1)
    assert grids.flow(4, final=None).shape == (4,)


KEYS = jax.random.split(jax.random.key(0), 8192)


def quantile(kind, t, **options):
    """The distribution function of a kind's times at t, from its definition at many u."""
    u = np.linspace(0, 1, 20001)[1:-1]
    s = options.get("scale", 1.29)
    at = {
        "uniform": u,
        "stratified": u,
        "logit_normal": 1 / (1 + np.exp(-stats.norm.ppf(u))),
        "mode": 1 - u - s * (np.cos(np.pi * u / 2) ** 2 - 1 + u),
        "cosmap": 1 - 1 / (np.tan(np.pi * u / 2) + 1),
    }[kind]
    return np.searchsorted(np.sort(at), t) / len(at)


@pytest.mark.parametrize("kind", ["uniform", "stratified", "logit_normal", "mode", "cosmap"])
def test_times_have_their_distribution(kind):
    t = np.asarray(times.sample_times(kind, KEYS))
    assert t.shape == (8192,)
    assert np.all((t >= 0) & (t <= 1))
    place = np.sort(quantile(kind, t))
    assert np.abs(place - np.linspace(0, 1, len(t))).max() < 0.02
    alone = times.sample_times(
        kind, KEYS[5:6], **({"index": jnp.array([5]), "count": 8192} if kind == "stratified" else {})
    )
    np.testing.assert_allclose(alone, t[5:6], rtol=1e-6)


def test_stratified_times_fall_one_in_each_slice():
    t = times.sample_times("stratified", KEYS[:64])
    assert np.floor(np.asarray(t) * 64).astype(int).tolist() == list(range(64))


def test_log_normal_times_are_edms():
    schedule = EDM()
    t = times.sample_times("log_normal", KEYS, -1.2, 1.2, schedule=schedule)
    logs = np.log(np.asarray(schedule.sigma(t)))
    assert abs(logs.mean() + 1.2) < 0.06
    assert abs(logs.std() - 1.2) < 0.06
    assert np.all(times.sample_times("log_normal", KEYS[:9], 50.0, schedule=Cosine()) == 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: times.sample_times("log_normal", KEYS[:2]), "schedule: log_normal times need one"),
        (lambda: times.sample_times("mode", KEYS[:2], scale=3.0), "scale: 3.0 is not in"),
        (lambda: grids.ays(TABLE, 5, "sd3"), "sd3"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(Exception, match=message):
        call()
