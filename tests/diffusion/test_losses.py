"""Weights mean the same whatever the network predicts; the bound is a bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import losses
from ldm_jax.diffusion.prediction import KINDS, LearnedEstimate, Preconditioning, target
from ldm_jax.diffusion.schedules import EDM, Cosine, DiscreteBetas, RectifiedFlow

ALL = [*KINDS, Preconditioning(0.5)]
SCHEDULES = [Cosine(), RectifiedFlow(), EDM()]


@pytest.mark.parametrize("name", [name for name in losses.WEIGHTINGS if name != "simple"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_weighted_loss_does_not_depend_on_the_prediction(name, schedule):
    """An error of x0 at fixed z costs the same through eps, v, flow and EDM's output."""
    t = jnp.asarray([0.2, 0.5, 0.8])
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0, z = jnp.ones((3, 4)) * 0.3, jnp.ones((3, 4)) * 0.9
    wrong = x0 + jnp.asarray([[0.1], [-0.2], [0.4]])

    def through(kind, x0):
        eps = (z - alpha[:, None] * x0) / sigma[:, None]
        return target(kind, x0, eps, alpha, sigma)

    found = [
        losses.weight(name, kind, alpha, sigma) * losses.distance("squared", through(kind, wrong), through(kind, x0))
        for kind in ALL
    ]
    for one in found[1:]:
        np.testing.assert_allclose(one, found[0], rtol=2e-3)


def test_weights_are_the_papers():
    a, s = jnp.asarray([0.99, 0.6]), jnp.asarray([0.141, 0.8])
    snr = np.asarray(a**2 / s**2)
    np.testing.assert_allclose(losses.weight("min_snr", "eps", a, s), np.minimum(snr, 5) / snr, rtol=1e-5)
    np.testing.assert_allclose(losses.weight("min_snr", "x0", a, s), np.minimum(snr, 5), rtol=1e-5)
    np.testing.assert_allclose(losses.weight("min_snr", "v", a, s), np.minimum(snr, 5) / (snr + 1), rtol=1e-3)
    np.testing.assert_allclose(losses.weight("p2", "eps", a, s, gamma=1.0), 1 / (1 + snr), rtol=1e-5)
    np.testing.assert_allclose(losses.weight("v", "x0", a, s), snr + 1, rtol=1e-3)
    want = 1 / (1 + np.exp(3 + np.log(snr)))
    np.testing.assert_allclose(losses.weight("sigmoid", "eps", a, s, bias=-3.0), want, rtol=1e-4)
    rho = jnp.asarray([2.0])
    np.testing.assert_allclose(losses.weight("edm", Preconditioning(0.5), jnp.ones(1), rho), 1.0, rtol=1e-6)
    np.testing.assert_allclose(losses.weight("edm", "x0", jnp.ones(1), rho), (4 + 0.25) / (2 * 0.5) ** 2, rtol=1e-6)
    with pytest.raises(Exception, match="flat"):
        losses.weight("flat", "eps", a, s)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_weights_are_finite_at_the_ends(kind):
    for schedule in (Cosine(), RectifiedFlow(), DiscreteBetas(zero_snr=True)):
        t = jnp.asarray([0.0, 1e-4, 1.0])
        for name in losses.WEIGHTINGS:
            found = losses.weight(name, kind, schedule.alpha(t), schedule.sigma(t))
            assert np.all(np.isfinite(found)), name
            assert np.all(np.asarray(found) >= 0), name


def test_dlogsnr():
    t = jnp.asarray([0.25, 0.5])
    np.testing.assert_allclose(losses.dlogsnr(RectifiedFlow(), t), -2 / (t * (1 - t)), rtol=1e-5)
    weighted = losses.weight("sigmoid", "eps", 1 - t, t, dlogsnr_dt=losses.dlogsnr(RectifiedFlow(), t))
    plain = losses.weight("sigmoid", "eps", 1 - t, t)
    np.testing.assert_allclose(weighted, plain / (t * (1 - t)), rtol=1e-5)


def test_distances():
    a, b = jnp.asarray([[1.0, 3.0]]), jnp.asarray([[0.0, 1.0]])
    np.testing.assert_allclose(losses.distance("squared", a, b), [2.5])
    np.testing.assert_allclose(losses.distance("l1", a, b), [1.5])
    np.testing.assert_allclose(losses.distance("huber", a, b), [(2**0.5 + 5**0.5) / 2 - 1], rtol=1e-6)
    assert losses.distance("squared", a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)).dtype == jnp.float32


def test_hybrid_bound():
    """Zero for the true x0 and the posterior's variance; larger for others; its gradient is the variance's alone."""
    schedule = DiscreteBetas("linear", 1e-4, 0.02)
    keys = jax.random.split(jax.random.key(0), 2)
    x0, eps = (jax.random.normal(k, (3, 5)) for k in keys)
    t, s = jnp.asarray([0.5, 0.2, 0.001]), jnp.asarray([0.499, 0.199, 0.0])
    z = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps

    def bound(guess, share, decoder="gaussian"):
        return losses.hybrid_vlb(LearnedEstimate(guess, eps, share), x0, z, schedule, t, s, decoder)

    best = bound(x0, jnp.zeros_like(x0))
    np.testing.assert_allclose(best[:2], 0.0, atol=1e-5)
    assert np.all(np.asarray(bound(x0 + 0.3, jnp.zeros_like(x0))) > np.asarray(best))
    assert np.all(np.asarray(bound(x0, jnp.ones_like(x0))[:2]) > 0)
    assert np.all(np.isfinite(bound(x0, jnp.zeros_like(x0), "discretized")))
    by_x0, by_share = jax.grad(lambda *args: bound(*args).sum(), (0, 1))(x0 + 0.1, jnp.full_like(x0, 0.5))
    assert np.all(np.asarray(by_x0) == 0)
    assert np.any(np.asarray(by_share) != 0)


def test_noise_offset_and_perturbation():
    keys = jax.random.split(jax.random.key(0), 4096)
    zero = jnp.zeros((4096, 3, 2))
    offset = losses.noise_offset(keys, zero, 0.5)
    assert np.all(np.asarray(offset) == np.asarray(offset[:, :1]))
    assert float(offset[:, 0].std()) == pytest.approx(0.5, rel=0.05)
    other = losses.input_perturbation(keys, zero, 0.1)
    assert float(other.std()) == pytest.approx(0.1, rel=0.05)
    np.testing.assert_array_equal(losses.input_perturbation(keys[7:8], zero[7:8], 0.1), other[7:8])
