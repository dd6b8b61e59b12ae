"""Guidance rules, on Gaussians whose guided distribution is known where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import grids, guidance, samplers
from ldm_jax.diffusion.guidance import Branches, branches
from ldm_jax.diffusion.prediction import Estimate, LearnedEstimate, estimate, target
from ldm_jax.diffusion.schedules import Cosine, RectifiedFlow

KEY = jax.random.key(0)
FLOW = RectifiedFlow()


def of(mean, schedule=FLOW, variance=1.0):
    """denoise for N(mean, variance), of any shape."""

    def denoise(z, t, cond=None):
        own = mean if cond is None else cond.reshape(cond.shape + (1,) * (z.ndim - 1))
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        centred = (z - alpha * own) / (alpha**2 * variance + sigma**2)
        return Estimate(own + alpha * variance * centred, sigma * centred)

    return denoise


PAIR = lambda z, t: Branches(of(1.0)(z, t), of(0.0, variance=0.5)(z, t))  # noqa: E731
Z = jax.random.normal(KEY, (3, 2, 4))
T = jnp.asarray(0.6)


def consistent(found, z=Z, t=T, schedule=FLOW):
    """alpha x0 + sigma eps = z"""
    np.testing.assert_allclose(schedule.alpha(t) * found.x0 + schedule.sigma(t) * found.eps, z, atol=1e-5)


def test_batched_and_separate_branches_agree():
    cond, null = jnp.asarray([1.0, 2.0, 3.0]), jnp.zeros(3)
    calls = []

    def denoise(z, t, c):
        calls.append(z.shape[0])
        return of(0.0)(z, t, c)

    for t in (T, jnp.full(3, 0.6)):
        spread = lambda z, t, c: denoise(z, t if t.ndim == 0 else t.reshape(-1, 1, 1), c)  # noqa: E731
        together, apart = (branches(spread, cond, null, batched)(Z, t) for batched in (True, False))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert calls == [6, 3, 3] * 2


def test_scale_and_interval():
    plain = PAIR(Z, T)
    np.testing.assert_allclose(guidance.classifier_free(PAIR, 1.0)(Z, T).x0, plain.conditional.x0, rtol=1e-6)
    np.testing.assert_allclose(guidance.classifier_free(PAIR, 0.0)(Z, T).x0, plain.unconditional.x0, rtol=1e-6)
    guided = guidance.classifier_free(PAIR, 3.0)
    consistent(guided(Z, T))
    only = guidance.classifier_free(PAIR, 3.0, interval=(0.2, 0.5))
    np.testing.assert_allclose(only(Z, T).x0, plain.conditional.x0, rtol=1e-6)
    np.testing.assert_allclose(only(Z, jnp.asarray(0.4)).x0, guided(Z, jnp.asarray(0.4)).x0, rtol=1e-6)
    each = guidance.classifier_free(PAIR, jnp.asarray([0.0, 1.0, 3.0]))(Z, T)
    np.testing.assert_allclose(each.x0[2], guided(Z, T).x0[2], rtol=1e-6)
    np.testing.assert_allclose(each.x0[0], plain.unconditional.x0[0], rtol=1e-6)


def test_channels():
    """DiT guides three of its four channels."""
    found = guidance.classifier_free(PAIR, 4.0, channels=3)(Z, T)
    np.testing.assert_array_equal(found.x0[..., 3:], PAIR(Z, T).conditional.x0[..., 3:])
    np.testing.assert_allclose(found.x0[..., :3], guidance.classifier_free(PAIR, 4.0)(Z, T).x0[..., :3], rtol=1e-6)
    consistent(found)


def test_learned_variance_is_the_conditional_ones():
    def learned(z, t):
        return Branches(*(LearnedEstimate(*b, jnp.full_like(z, i)) for i, b in enumerate(PAIR(z, t))))

    assert float(guidance.classifier_free(learned, 4.0)(Z, T).variance.max()) == 0.0


def test_rescale_restores_the_deviation():
    schedule = Cosine()
    pair = lambda z, t: Branches(of(1.0, schedule, 0.2)(z, t), of(0.0, schedule, 0.5)(z, t))  # noqa: E731
    found = guidance.classifier_free(pair, 5.0, rescale=1.0, schedule=schedule)(Z, T)
    consistent(found, schedule=schedule)
    want = pair(Z, T).conditional
    stds = [target("v", e.x0, e.eps, schedule.alpha(T), schedule.sigma(T)).std((1, 2)) for e in (found, want)]
    np.testing.assert_allclose(*stds, rtol=1e-5)
    with pytest.raises(ValueError, match="schedule: None"):
        guidance.classifier_free(pair, 5.0, rescale=0.7)


def test_cfg_zero_star():
    """Blind to the length of the unconditional velocity, and standing still at first."""

    def longer(z, t):
        c, u = PAIR(z, t)
        x0, eps = estimate("flow", 1.7 * (u.eps - u.x0), z, FLOW.alpha(t), FLOW.sigma(t))
        return Branches(c, Estimate(x0, eps))

    a, b = (guidance.cfg_zero_star(pair, 4.0, FLOW)(Z, T) for pair in (PAIR, longer))
    np.testing.assert_allclose(a.x0, b.x0, rtol=1e-4, atol=1e-4)
    consistent(a)
    first = guidance.cfg_zero_star(PAIR, 4.0, FLOW, zero_init=0.1)(Z, jnp.asarray(0.95))
    np.testing.assert_allclose(first.eps, first.x0, atol=1e-5)


def test_apg_without_its_parts_is_classifier_free_guidance():
    neutral = guidance.apg(PAIR, 4.0, FLOW, eta=1.0, norm_threshold=0.0, momentum=0.0)
    found, _ = neutral.apply(Z, T, neutral.init(Z))
    want = guidance.classifier_free(PAIR, 4.0)(Z, T)
    np.testing.assert_allclose(found.x0, want.x0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.eps, want.eps, rtol=1e-4, atol=1e-5)


def test_apg():
    rule = guidance.apg(PAIR, 4.0, FLOW, eta=0.0, norm_threshold=0.5, momentum=-0.5)
    found, average = rule.apply(Z, T, rule.init(Z))
    consistent(found)
    conditional = PAIR(Z, T).conditional.x0
    change = found.x0 - conditional
    np.testing.assert_allclose((change * conditional).sum((1, 2)), 0.0, atol=1e-4)
    assert np.all(np.sqrt((np.asarray(change) ** 2).sum((1, 2))) <= 3.0 * 0.5 + 1e-4)
    _, second = rule.apply(Z, T, average)
    np.testing.assert_allclose(second, 0.5 * average, rtol=1e-5)
    out = samplers.sample(rule, samplers.heun(), FLOW, grids.linspace(4), Z, KEY)
    assert np.all(np.isfinite(out))


def test_autoguidance_and_composition():
    strong, weak = of(1.0), of(1.0, variance=2.0)
    found = guidance.autoguidance(strong, weak, 2.0)(Z, T)
    np.testing.assert_allclose(found.x0, 2 * strong(Z, T).x0 - weak(Z, T).x0, rtol=1e-4, atol=1e-5)
    single = guidance.compose(of(0.0), [of(1.0)], [3.0])(Z, T)
    want = guidance.classifier_free(lambda z, t: Branches(of(1.0)(z, t), of(0.0)(z, t)), 3.0)(Z, T)
    np.testing.assert_allclose(single.eps, want.eps, rtol=1e-5, atol=1e-6)
    # Unit Gaussians about 1 and about 2, over one about 0, multiply to one about 3.
    two = guidance.compose(of(0.0), [of(1.0), of(2.0)], [1.0, 1.0])(Z, T)
    np.testing.assert_allclose(two.x0, of(3.0)(Z, T).x0, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="scales: 1 of them for 2 conditionals"):
        guidance.compose(of(0.0), [of(1.0), of(2.0)], [1.0])


def test_classifier_guidance_gives_the_product():
    """Data N(0, 1), classifier p(y | x0) ~ exp(b x0): the guided data are N(b, 1), exactly."""
    b = 0.8

    def log_probability(z, t):
        # E[exp(b x0) | z], x0 | z being Gaussian with mean m z and a variance that z is not in.
        alpha, sigma = FLOW.alpha(t), FLOW.sigma(t)
        return (b * alpha / (alpha**2 + sigma**2) * z).reshape(z.shape[0], -1).sum(1)

    found = guidance.classifier(of(0.0), log_probability, 1.0, FLOW)
    consistent(found(Z, T))
    np.testing.assert_allclose(found(Z, T).x0, of(b)(Z, T).x0, rtol=1e-4, atol=1e-5)


def test_one_compilation_for_all_scales():
    traces = []

    @jax.jit
    def go(scale, key):
        traces.append(1)
        denoise = guidance.classifier_free(PAIR, scale)
        return samplers.sample(denoise, samplers.ddpm(), FLOW, grids.linspace(4), Z, key)

    outs = [go(jnp.asarray(scale), jax.random.key(seed)) for scale, seed in ((1.0, 0), (5.0, 0), (1.0, 1))]
    assert len(traces) == 1
    assert not np.allclose(outs[0], outs[1])
    assert not np.allclose(outs[0], outs[2])
