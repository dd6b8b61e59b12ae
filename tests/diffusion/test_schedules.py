"""Schedules: their ends, their inverse, tables against the products that define them, schedules from schedules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import schedules
from ldm_jax.diffusion.betas import KINDS, betas
from ldm_jax.diffusion.schedules import EDM, VP, Cosine, DiscreteBetas, Knots, RectifiedFlow, Rescaled

ALL = [
    RectifiedFlow(),
    Cosine(),
    VP(),
    EDM(),
    DiscreteBetas(),
    DiscreteBetas("squaredcos_cap_v2"),
    DiscreteBetas(zero_snr=True),
    schedules.shift(RectifiedFlow(), 3.0),
    schedules.shift(Cosine(), 0.5),
]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_ends_and_inverse(schedule):
    assert isinstance(schedule, schedules.Schedule)
    hash(schedule)
    zero, one = jnp.zeros(()), jnp.ones(())
    assert float(schedule.alpha(zero)) == pytest.approx(1.0, abs=1e-6)
    assert float(schedule.sigma(zero)) == 0.0
    assert schedules.logsnr(schedule, zero) == jnp.inf
    with jax.enable_x64(True):
        t = jnp.linspace(0.001, 0.999, 500)
        logsnr = schedules.logsnr(schedule, t)
        assert np.all(np.diff(logsnr) < 0)
        np.testing.assert_allclose(schedules.time(schedule, logsnr), t, atol=1e-9)
        np.testing.assert_allclose(schedules.time(schedule, jnp.asarray(jnp.inf)), 0.0, atol=1e-9)
    if float(schedule.alpha(one)) == 0.0:
        assert float(schedules.time(schedule, jnp.asarray(-jnp.inf))) == pytest.approx(1.0)
    assert np.isfinite(jax.grad(schedule.sigma)(zero))
    if not isinstance(schedule, EDM | RectifiedFlow) and not isinstance(getattr(schedule, "base", None), RectifiedFlow):
        t = jnp.linspace(0.0, 1.0, 100)
        np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1.0, atol=1e-6)


def test_time_by_bisection():
    """A schedule without its own `time` has one."""

    @dataclasses.dataclass(frozen=True)
    class Plain:
        def alpha(self, t):
            return 1.0 - t**2

        def sigma(self, t):
            return t

    t = jnp.linspace(0.01, 0.99, 20)
    np.testing.assert_allclose(schedules.time(Plain(), schedules.logsnr(Plain(), t)), t, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tables(kind):
    table = betas(kind, 1e-4, 0.02, 1000)
    assert table.shape == (1000,)
    assert np.all((table > 0) & (table <= 0.999))
    schedule = DiscreteBetas(kind, 1e-4, 0.02)
    index = np.array([0, 1, 500, 999])
    want = np.sqrt(np.cumprod(1.0 - table))[index]
    with jax.enable_x64(True):
        t = jnp.asarray((index + 1) / 1000)
        np.testing.assert_allclose(schedule.alpha(t), want, rtol=1e-9)
        np.testing.assert_allclose(schedules.timestep(schedule, t), index, atol=1e-9)
    own = dataclasses.replace(schedule, table=tuple(table.tolist()))
    np.testing.assert_allclose(own.alpha(jnp.asarray(0.5)), schedule.alpha(jnp.asarray(0.5)), rtol=1e-6)


def test_unknown_table():
    with pytest.raises(ValueError, match="kind: 'cosine' is not one of linear"):
        betas("cosine", 0.0, 1.0, 10)


def test_zero_terminal_snr():
    plain = DiscreteBetas()
    with jax.enable_x64(True):
        zero = schedules.zero_terminal_snr(plain)
        ends = jnp.asarray([0.001, 1.0])
        np.testing.assert_allclose(zero.alpha(ends), [float(plain.alpha(ends[0])), 0.0], rtol=1e-9)
        t = jnp.linspace(0.9985, 1.0, 7)
        assert np.all(np.isfinite(zero.alpha(t)))
        np.testing.assert_allclose(schedules.time(zero, schedules.logsnr(zero, t)), t, atol=1e-9)
        vp = schedules.zero_terminal_snr(VP())
        assert isinstance(vp, Rescaled)
        np.testing.assert_allclose(vp.alpha(jnp.asarray([0.0, 1.0])), [1.0, 0.0], atol=1e-12)
        np.testing.assert_allclose(vp.sigma(jnp.asarray([0.0, 1.0])), [0.0, 1.0], atol=1e-12)
    assert schedules.zero_terminal_snr(Cosine()) == Cosine()
    with pytest.raises(ValueError, match="EDM keeps alpha = 1"):
        schedules.zero_terminal_snr(EDM())


def test_shift_multiplies_the_noise():
    t = jnp.linspace(0.05, 0.9, 10)
    for base in (RectifiedFlow(), Cosine(), VP()):
        shifted = schedules.shift(base, 2.5)
        ratio = shifted.sigma(t) / shifted.alpha(t) / (base.sigma(t) / base.alpha(t))
        np.testing.assert_allclose(ratio, 2.5, rtol=2e-3)
    flow = schedules.shift(RectifiedFlow(), 3.0)
    np.testing.assert_allclose(flow.sigma(t), 3 * t / (1 + 2 * t), rtol=1e-6)
    with pytest.raises(ValueError, match=r"s: 0\.0 is not a positive number"):
        schedules.shift(RectifiedFlow(), 0.0)


def test_resolution_shift_is_fluxs():
    assert schedules.resolution_shift(256) == pytest.approx(np.exp(0.5))
    assert schedules.resolution_shift(4096) == pytest.approx(np.exp(1.15))
    assert schedules.resolution_shift(4096, exponential=False) == pytest.approx(1.15)


def test_knots_are_exact_where_they_are():
    base, times = DiscreteBetas(), jnp.linspace(0.1, 0.9, 5)
    knots = Knots(times, base.alpha(times), base.sigma(times), base.timestep(times))
    np.testing.assert_array_equal(knots.alpha(times), base.alpha(times))
    np.testing.assert_allclose(schedules.time(knots, schedules.logsnr(knots, times)), times, rtol=1e-5)
    assert len(jax.tree.leaves(knots)) == 4
