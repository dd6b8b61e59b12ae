"""Predictions convert to each other and back, everywhere, ends included."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.diffusion.prediction import (
    KINDS,
    Preconditioning,
    clip_x0,
    convert,
    estimate,
    expand,
    input_scale,
    split_learned,
    target,
)
from ldm_jax.diffusion.schedules import EDM, VP, Cosine, DiscreteBetas, RectifiedFlow

ALL = [*KINDS, Preconditioning(0.5), Preconditioning(1.0, negated=True)]
SCHEDULES = [RectifiedFlow(), Cosine(), VP(), DiscreteBetas(), DiscreteBetas(zero_snr=True), EDM()]
times = st.one_of(st.sampled_from([0.0, 1.0, 1e-3, 0.999]), st.floats(0.0, 1.0, width=32))
values = st.lists(st.floats(-3, 3, width=16), min_size=4, max_size=4)


@given(
    t=times,
    x0=values,
    eps=values,
    pair=st.tuples(st.sampled_from(ALL), st.sampled_from(ALL)),
    schedule=st.sampled_from(SCHEDULES),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_conversions_are_inverse_to_each_other(t, x0, eps, pair, schedule, dtype):
    source, destination = pair
    alpha, sigma = (f(jnp.asarray(t, jnp.float32)).astype(dtype) for f in (schedule.alpha, schedule.sigma))
    x0, eps = jnp.asarray([x0], dtype), jnp.asarray([eps], dtype)
    z = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
    output = target(source, x0, eps, alpha, sigma)
    there = convert(source, destination, output, z, alpha, sigma)
    back = convert(destination, source, there, z, alpha, sigma)
    for array in (output, there, back):
        assert array.dtype == dtype
        assert np.all(np.isfinite(np.asarray(array, np.float32)))
    a, s = float(alpha), float(sigma)
    # At an end, one part can't be seen in z: eps says nothing about x0 at alpha = 0, nor x0 about eps at sigma = 0.
    lost = {"eps": a, "x0": s}
    if any(lost.get(kind, 1.0) == 0.0 for kind in pair):
        return
    # x0 from eps divides by alpha, eps from x0 by sigma; what is lost is the rounding of z, over that.
    worst = max([1.0, *[max(a, s) / lost[kind] for kind in pair if kind in lost]])
    size = float(jnp.max(jnp.abs(jnp.stack([x0, eps, output]).astype(jnp.float32)))) * (1 + max(a, s)) + 1e-30
    unit = float(jnp.finfo(dtype).eps)
    allowed = 16 * unit * worst * size * max(1.0, s)
    np.testing.assert_allclose(np.asarray(back, np.float32), np.asarray(output, np.float32), atol=allowed)


@given(t=times, kind=st.sampled_from(ALL), schedule=st.sampled_from(SCHEDULES), out=values, z=values)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_estimates_add_up_to_z(t, kind, schedule, out, z):
    """alpha x0 + sigma eps = z, whatever the network says, unless it predicts the one part of it that is all of z."""
    t = jnp.asarray(t, jnp.float32)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    out, z = jnp.asarray([out]), jnp.asarray([z])
    x0, eps = estimate(kind, out, z, alpha, sigma)
    assert np.all(np.isfinite(x0))
    assert np.all(np.isfinite(eps))
    if (kind == "eps" and alpha == 0) or (kind == "x0" and sigma == 0):
        return
    size = 1 + float(jnp.max(jnp.abs(z))) + float(jnp.max(jnp.abs(out))) * max(1.0, float(sigma))
    np.testing.assert_allclose(expand(alpha, z) * x0 + expand(sigma, z) * eps, z, atol=1e-5 * size)


def test_v_and_edm_with_unit_data_are_one():
    """EDM's preconditioning with sigma_data = 1 in variance-preserving units is v, negated."""
    schedule, t = Cosine(), jnp.asarray(0.3)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0, eps = jnp.asarray([[0.3, -1.0]]), jnp.asarray([[0.7, 0.2]])
    np.testing.assert_allclose(
        target("v", x0, eps, alpha, sigma), target(Preconditioning(1.0, True), x0, eps, alpha, sigma), rtol=1e-5
    )
    np.testing.assert_allclose(input_scale(Preconditioning(1.0), alpha, sigma), 1.0, rtol=1e-6)


def test_edm_is_table_1():
    rho, s = 2.0, 0.5
    kind, z, out = Preconditioning(s), jnp.asarray([[1.5]]), jnp.asarray([[0.4]])
    want = s**2 / (rho**2 + s**2) * 1.5 + rho * s / (rho**2 + s**2) ** 0.5 * 0.4
    got = estimate(kind, out, z, jnp.ones(()), jnp.asarray(rho)).x0
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(input_scale(kind, jnp.ones(()), jnp.asarray(rho)), 1 / (rho**2 + s**2) ** 0.5, rtol=1e-6)


def test_learned_variance_is_split():
    prediction, variance = split_learned(jnp.asarray([[1.0, 2.0, -1.0, 1.0]]))
    assert prediction.tolist() == [[1.0, 2.0]]
    assert variance.tolist() == [[0.0, 1.0]]


def test_clipping():
    z, alpha, sigma = jnp.asarray([[2.0, 0.1]]), jnp.asarray(0.6), jnp.asarray(0.8)
    before = estimate("v", jnp.asarray([[-1.0, 0.5]]), z, alpha, sigma)
    kept = clip_x0(before, z, alpha, sigma, 1.0, consistent=False)
    np.testing.assert_array_equal(kept.eps, before.eps)
    moved = clip_x0(before, z, alpha, sigma, 1.0)
    np.testing.assert_allclose(0.6 * moved.x0 + 0.8 * moved.eps, z, rtol=1e-6)
    assert float(jnp.abs(moved.x0).max()) == 1.0


def test_unknown_kinds():
    with pytest.raises(Exception, match="noise"):
        target("noise", *[jnp.ones((1, 1))] * 2, *[jnp.ones(())] * 2)  # type: ignore[arg-type]
