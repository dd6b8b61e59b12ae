import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions import LabelCondition
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.schedules import Cosine
from ldm_jax.diffusion.time_choices import Uniform
from ldm_jax.models import DiT, DiTConfig, UNet, UNetConfig
from ldm_jax.stages.denoiser_loss import denoiser_loss

KEYS = jax.random.split(jax.random.key(0), 8)
DENOISER = DiT(DiTConfig(in_channels=2, out_channels=2, patch=2, width=8, depth=1, heads=2, num_classes=3))
UNET = UNet(
    UNetConfig(
        in_channels=2,
        out_channels=2,
        channels=(8, 8),
        blocks=1,
        attention=(0, 1),
        heads=(2, 2),
        groups=4,
        context_dim=0,
        class_rows=4,
        num_classes=3,
        time_scale=1000.0,
    )
)
BOTH = pytest.mark.parametrize("denoiser", [DENOISER, UNET], ids=lambda d: type(d).__name__)


def moments(n=8):
    mean = jax.random.normal(jax.random.key(2), (n, 4, 4, 2)) * 3.0 + 5.0
    told = {"label": {"label": jnp.arange(n) % 3}}
    return {"mean": mean, "logvar": jnp.full_like(mean, -20.0), "conditions": told}


def labels(dropout=0.1):
    return (LabelCondition(("a", "b", "c"), dropout),)


def zero_params(denoiser=DENOISER):
    return {"denoiser": jax.jit(denoiser.init)(jax.random.key(0), *denoiser.example_inputs())["params"]}


@BOTH
def test_a_zero_denoiser_has_the_targets_energy(denoiser):
    # Both start as the zero function: the flow loss is E|eps - x0|^2 = 1 + E|x0|^2 = 2 for normalised latents.
    batch = jax.tree.map(lambda v: jnp.tile(v, (64, *(1,) * (v.ndim - 1))), moments())
    keys = jax.random.split(jax.random.key(5), 512)
    mean, std = batch["mean"].mean(axis=(0, 1, 2)), batch["mean"].std(axis=(0, 1, 2))
    loss_fn = denoiser_loss(denoiser, Process(), mean, std, labels())
    loss, _ = jax.jit(loss_fn)(zero_params(denoiser), batch, keys)
    chex.assert_shape(loss, (512,))
    np.testing.assert_allclose(float(loss.mean()), 2.0, atol=0.05)


def test_of_the_posterior_a_sample_or_its_mean():
    """A zero denoiser's loss has the posterior's variance in it where samples are drawn, with the mean it hasn't."""
    batch = jax.tree.map(lambda v: jnp.tile(v, (64, *(1,) * (v.ndim - 1))), moments())
    batch |= {"mean": batch["mean"] - 5.0, "logvar": jnp.full_like(batch["mean"], jnp.log(2.0))}
    keys, params = jax.random.split(jax.random.key(5), 512), zero_params()
    plain = 1.0 + float(jnp.square(batch["mean"]).mean())
    for posterior, spread in (("sample", 2.0), ("mean", 0.0)):
        loss_fn = denoiser_loss(DENOISER, Process(), jnp.zeros(2), jnp.ones(2), labels(), posterior=posterior)
        loss, _ = jax.jit(loss_fn)(params, batch, keys)
        np.testing.assert_allclose(float(loss.mean()), plain + spread, rtol=0.03)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
def test_a_loss_in_another_space_is_a_weighting(prediction):
    schedule = Cosine()
    losses = {}
    for space in ("eps", "x0", "v", "flow"):
        process = Process(schedule, prediction, times=Uniform(), loss=space)
        loss_fn = denoiser_loss(DENOISER, process, jnp.zeros(2), jnp.ones(2), labels())
        losses[space], _ = jax.jit(loss_fn)(zero_params(), moments(), KEYS)
    # All four are the same error of x0, times a function of t alone: (1, alpha/sigma, 1/sigma, (alpha+sigma)/sigma)^2.
    chex.assert_tree_all_finite(losses)
    ratio = np.sqrt(np.asarray(losses["eps"] / losses["x0"]))
    np.testing.assert_allclose(np.sqrt(losses["flow"] / losses["x0"]), 1.0 + ratio, rtol=1e-3)
    np.testing.assert_allclose(losses["v"] / losses["x0"], 1.0 + ratio**2, rtol=1e-3)


@BOTH
def test_labels_are_dropped_at_the_given_rate(denoiser):
    seen = {}
    for rate in (0.0, 1.0):
        loss_fn = denoiser_loss(denoiser, Process(), jnp.zeros(2), jnp.ones(2), labels(rate))
        params = jax.tree.map(lambda p: p + 0.1, zero_params(denoiser))
        gradient = jax.jit(jax.grad(lambda p, f=loss_fn: f(p, moments(), KEYS)[0].mean()))(params)
        seen[rate] = np.abs(np.asarray(gradient["denoiser"]["label"]["embedding"])).max(axis=1) > 0
    np.testing.assert_array_equal(seen[0.0], [True, True, True, False])
    np.testing.assert_array_equal(seen[1.0], [False, False, False, True])


def test_each_example_has_its_own_randomness():
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), moments())
    loss_fn = denoiser_loss(DENOISER, Process(), jnp.zeros(2), jnp.ones(2), labels())
    loss_fn = jax.jit(loss_fn)
    loss, _ = loss_fn(zero_params(), batch, KEYS)
    assert len(np.unique(np.asarray(loss))) == 8
    same, _ = loss_fn(zero_params(), batch, jnp.broadcast_to(KEYS[:1], KEYS.shape))
    np.testing.assert_allclose(same, same[0])
