"""The autoencoder's loss: its terms, its adversarial part, and what one step of it does."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.models import (
    LPIPS,
    AutoencoderConfig,
    Discriminator,
    DiscriminatorConfig,
    FSQConfig,
    LPIPSConfig,
    TinyAutoencoderConfig,
    VQConfig,
    apply,
    make_autoencoder,
)
from ldm_jax.stages import AutoencoderLoss
from ldm_jax.stages.adversarial import discriminator_loss, generator_loss, lecam, r1
from ldm_jax.stages.autoencoder import first_stage_optimizer
from ldm_jax.stages.autoencoder_loss import LAST_LAYER, autoencoder_loss, init_first_stage, with_last_layer
from ldm_jax.stages.bottleneck import move, perplexity
from ldm_jax.stages.equivariance import shrink, symmetry
from ldm_jax.training.parallel import AXIS, make_strategy
from ldm_jax.training.stage import Context, Training
from ldm_jax.training.step import started, train_step

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 8)
SMALL = {"image_channels": 1, "channels": 4, "multipliers": (1,), "blocks": 1, "stem": 2, "groups": 2}
KL = AutoencoderConfig(**SMALL, latent_channels=2, attention=False)
VQ = VQConfig(**SMALL, latent_channels=2, attention=False, codebook_size=16)
FSQ = FSQConfig(**SMALL, latent_channels=2, attention=False, levels=(5, 4))
TINY = TinyAutoencoderConfig(1, 2, (4, 4), (1, 1), (4, 4), (1, 1))
DISCRIMINATOR = Discriminator(DiscriminatorConfig(1, 4, 1))
IMAGES = jax.random.uniform(jax.random.key(1), (8, 8, 8, 1), minval=-1.0)
BATCH = {"image": IMAGES, "index": jnp.arange(8, dtype=jnp.int32)}
PLAIN = AutoencoderLoss()
ADVERSARIAL = AutoencoderLoss(adversarial_weight=0.5)


def params_of(config, loss=PLAIN, discriminator=None):
    init = partial(init_first_stage, make_autoencoder(config), discriminator, loss)
    return jax.jit(init)(KEY)


@pytest.mark.parametrize(("kind", "reduction"), [("l1", "mean"), ("l2", "sum"), ("bce", "mean")])
def test_kl_loss(kind, reduction):
    module = make_autoencoder(dataclasses.replace(KL, sigmoid_output=kind == "bce"))
    params = params_of(module.config)
    loss_fn = autoencoder_loss(module, AutoencoderLoss(kind, kl_weight=0.5, reduction=reduction))
    loss, metrics = jax.jit(loss_fn)(params, BATCH, KEYS)
    chex.assert_shape([loss, *metrics.values()], (8,))
    scale = 64.0 if reduction == "sum" else 1.0
    np.testing.assert_allclose(loss / scale, metrics["reconstruction"] + 0.5 * metrics["kl"] / 64, rtol=1e-5)
    posterior = apply(module, params["autoencoder"], IMAGES, method="encode")
    np.testing.assert_allclose(metrics["kl"], posterior.kl(), rtol=1e-4)


@pytest.mark.parametrize("config", [KL, VQ, FSQ, TINY], ids=lambda c: type(c).__name__)
def test_every_first_stage_plays_the_whole_game(config):
    loss = dataclasses.replace(ADVERSARIAL, lecam_weight=0.1, r1_weight=0.1)
    module, params = make_autoencoder(config), params_of(config, loss, DISCRIMINATOR)
    loss_fn = autoencoder_loss(module, loss, discriminator=DISCRIMINATOR)

    def mean(p):
        each, metrics = loss_fn(p, BATCH, KEYS)
        return each.mean(), metrics

    gradient, metrics = jax.jit(jax.grad(mean, has_aux=True))(params)
    chex.assert_tree_all_finite((gradient, metrics))
    chex.assert_shape(list(metrics.values()), (8,))
    for part in ("encoder", "decoder"):
        assert optax.tree.norm(gradient["autoencoder"][part]) > 0
    assert optax.tree.norm(gradient["discriminator"]) > 0


def test_perception_by_two_networks_is_their_sum():
    network = LPIPS(LPIPSConfig("alexnet"))
    drawn = [jax.jit(network.init)(jax.random.key(i), *network.example_inputs())["params"] for i in (0, 1)]
    module, params = make_autoencoder(KL), params_of(KL)
    loss_fn = partial(autoencoder_loss, module, AutoencoderLoss(perceptual_weight=0.5))
    plain, _ = jax.jit(loss_fn())(params, BATCH, KEYS)
    distance = {}
    for which in ((0,), (1,), (0, 1)):
        frozen = {"perceptual": [drawn[i] for i in which]}
        loss, metrics = jax.jit(loss_fn([network] * len(which)))(params, BATCH, KEYS, Context(frozen=frozen))
        np.testing.assert_allclose(loss - plain, 0.5 * metrics["lpips"], rtol=1e-3)
        distance[which] = metrics["lpips"]
    assert np.abs(distance[0,]).min() > 0
    np.testing.assert_allclose(distance[0, 1], distance[0,] + distance[1,], rtol=1e-5)


def by_hand(config, params, adaptive_weight):
    """The generator's loss written down directly, differentiated through everything at once."""
    module = make_autoencoder(KL)

    def total(own):
        posterior = apply(module, own, IMAGES, method="encode")
        noise = jax.vmap(lambda k: jax.random.normal(k, posterior.mean.shape[1:]))(KEYS)
        image = apply(module, own, posterior.sample(noise), method="decode")
        wanted = jnp.abs(image - IMAGES).mean()
        fooled = -apply(DISCRIMINATOR, params["discriminator"], image).mean()
        return wanted, fooled, config.kl_weight * posterior.kl().mean() / 64

    def loss(own):
        wanted, fooled, kl = total(own)
        return wanted + adaptive_weight * fooled + kl

    return total, loss


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_generators_gradient_is_that_of_the_formula(adaptive):
    config = AutoencoderLoss(kl_weight=0.01, adversarial_weight=0.5, adaptive=adaptive)
    params = params_of(KL, config, DISCRIMINATOR)
    loss_fn = autoencoder_loss(make_autoencoder(KL), config, discriminator=DISCRIMINATOR)
    gradient, metrics = jax.jit(
        jax.grad(lambda p: (lambda out: (out[0].mean(), out[1]))(loss_fn(p, BATCH, KEYS)), has_aux=True)
    )(params)

    total, _ = by_hand(config, params, 0.0)
    own = params["autoencoder"]
    kernel = own["decoder"]["conv_out"]["kernel"]
    norms = [
        optax.tree.norm(jax.jit(jax.grad(lambda k, i=i: total(with_last_layer(own, k))[i]))(kernel)) for i in (0, 1)
    ]
    weight = 0.5 * (float(norms[0] / (norms[1] * 8 + 1e-4) * 8) if adaptive else 1.0)
    np.testing.assert_allclose(metrics["adversarial_weight"], weight, rtol=1e-3)
    expected = jax.jit(jax.grad(by_hand(config, params, weight)[1]))(own)
    chex.assert_trees_all_close(gradient["autoencoder"], expected, rtol=2e-3, atol=1e-6)
    assert LAST_LAYER == ("decoder", "conv_out", "kernel")


def test_the_discriminator_learns_before_the_generator_sees_it():
    params = params_of(KL, ADVERSARIAL, DISCRIMINATOR)
    later = dataclasses.replace(ADVERSARIAL, adversarial_start=7)
    loss_fn = autoencoder_loss(make_autoencoder(KL), later, discriminator=DISCRIMINATOR)
    alone = autoencoder_loss(make_autoencoder(KL), AutoencoderLoss())

    def gradient(f, p, step):
        return jax.jit(jax.grad(lambda p: f(p, BATCH, KEYS, Context(step))[0].mean()))(p)

    before = gradient(loss_fn, params, 6)
    chex.assert_trees_all_close(before["autoencoder"], gradient(alone, params, 6)["autoencoder"], rtol=1e-4, atol=1e-7)
    after = gradient(loss_fn, params, 7)
    chex.assert_trees_all_close(before["discriminator"], after["discriminator"])
    assert optax.tree.norm(before["discriminator"]) > 0
    assert not np.allclose(
        before["autoencoder"]["decoder"]["conv_out"]["kernel"], after["autoencoder"]["decoder"]["conv_out"]["kernel"]
    )


def test_forms_of_the_game():
    real, fake = jnp.array([[2.0], [0.5]])[:, :, None], jnp.array([[-3.0], [0.5]])[:, :, None]
    np.testing.assert_allclose(discriminator_loss("hinge", real, fake), [0.0, 0.5 * (0.5 + 1.5)])
    np.testing.assert_allclose(generator_loss("hinge", fake), [3.0, -0.5])
    soft = np.log1p(np.exp([3.0, -0.5]))
    np.testing.assert_allclose(generator_loss("non_saturating", fake), soft, rtol=1e-6)
    expected = 0.5 * (np.log1p(np.exp([-2.0, -0.5])) + np.log1p(np.exp([-3.0, 0.5])))
    np.testing.assert_allclose(discriminator_loss("non_saturating", real, fake), expected, rtol=1e-6)
    np.testing.assert_allclose(lecam(real, fake, jnp.array(1.0), jnp.array(0.0)), [4.0 + 16.0, 0.25 + 0.25])
    # D(x) = sum of 3 x over four elements, averaged over one logit: the gradient is 3 everywhere.
    np.testing.assert_allclose(r1(lambda x: 3.0 * x.sum(axis=(1, 2))[:, None], jnp.ones((2, 2, 2))), 0.5 * 4 * 9.0)


def test_moves_are_made_whole_by_descent():
    old, new = {"a": jnp.arange(3.0), "b": jnp.ones(())}, {"a": jnp.zeros(3), "b": jnp.array(5.0)}
    value, gradient = jax.value_and_grad(lambda o: move(o, new))(old)
    assert float(value) == 0.0
    chex.assert_trees_all_close(jax.tree.map(jnp.subtract, old, gradient), new)


def test_perplexity():
    np.testing.assert_allclose(perplexity(jnp.full(10, 0.1)), 10.0, rtol=1e-5)
    np.testing.assert_allclose(perplexity(jnp.eye(10)[0]), 1.0, rtol=1e-5)


def test_symmetries_are_the_eight_of_the_square():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    seen = {np.asarray(symmetry(x, jnp.array([i]))).tobytes() for i in range(8)}
    turns = [np.rot90(y, k, axes=(1, 2)) for y in (np.asarray(x), np.asarray(x)[:, ::-1]) for k in range(4)]
    assert seen == {np.ascontiguousarray(y).tobytes() for y in turns}
    np.testing.assert_allclose(shrink(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_equivariance_adds_its_term_and_reaches_the_encoder():
    loss = AutoencoderLoss(equivariance_weight=2.0)
    module, params = make_autoencoder(KL), params_of(KL)
    each, metrics = jax.jit(autoencoder_loss(module, loss))(params, BATCH, KEYS)
    plain, _ = jax.jit(autoencoder_loss(module, AutoencoderLoss()))(params, BATCH, KEYS)
    np.testing.assert_allclose(each - plain, 2.0 * metrics["equivariance"], rtol=1e-4)


def stepper(config, loss, discriminator, trains="all", strategy="pmap", devices=8, rate=1e-2):
    training = Training(steps=100, learning_rate=rate, warmup=0)
    axis = AXIS if strategy == "pmap" else None
    module = make_autoencoder(config)
    optimizer = first_stage_optimizer(training, loss.codebook, trains)
    loss_fn = autoencoder_loss(module, loss, discriminator=discriminator, axis_name=axis)
    step = partial(train_step, loss_fn=loss_fn, optimizer=optimizer, ema=0.9)

    def init(key):
        params = init_first_stage(module, discriminator, loss, key)
        return started(params, optimizer)

    made = make_strategy(strategy, step, jax.devices()[:devices])
    return made, made.create(init, KEY)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "config"), [("pmap", VQ), ("fsdp", VQ)])
def test_one_and_eight_devices_agree(strategy, config):
    loss = dataclasses.replace(ADVERSARIAL, lecam_weight=0.1)
    found = {}
    for devices in (1, 8):
        made, state = stepper(config, loss, DISCRIMINATOR, strategy=strategy, devices=devices)
        out = []
        for _ in range(3):
            state, metrics = made.step(state, made.put(jax.tree.map(np.asarray, BATCH)), KEY)
            out.append(jax.device_get(metrics))
        found[devices] = out
    for a, b in zip(found[1], found[8], strict=True):
        chex.assert_trees_all_close(a, b, rtol=2e-3, atol=1e-4)


def test_rare_codes_restart_on_latents_of_the_batch():
    made, state = stepper(VQ, AutoencoderLoss(), None, devices=1)
    before = np.asarray(state.params["autoencoder"]["codebook"])
    batch = made.put(jax.tree.map(np.asarray, BATCH))
    latents = apply(make_autoencoder(VQ), state.params["autoencoder"], IMAGES, method="encode").reshape(-1, 2)
    state, metrics = made.step(state, batch, KEY)
    book = np.asarray(state.params["autoencoder"]["codebook"])
    near = np.abs(book[:, None] - np.asarray(latents)[None]).max(axis=2).min(axis=1)
    restarted = near < 1e-5
    unused = 16 * (1 - float(metrics["codes_used"]))
    assert restarted.sum() >= unused > 0
    assert not np.allclose(book, before)
    for _ in range(3):
        state, metrics = made.step(state, batch, KEY)
    assert float(metrics["codes_used"]) > 0.8


def test_an_averaged_codebook_settles_on_its_latents_means():
    loss = AutoencoderLoss(restart_below=0.0)
    made, state = stepper(VQ, loss, None, devices=1, rate=0.0)
    module = make_autoencoder(VQ)
    centres = jax.random.normal(jax.random.key(5), (16, 2)) * 0.05
    params = {**state.params, "autoencoder": {**state.params["autoencoder"], "codebook": centres}}
    params["statistics"] = {"codebook": {"usage": jnp.full(16, 1e-9), "sums": centres * 1e-9}}
    state = state._replace(params=params)
    own = params["autoencoder"]
    z = apply(module, own, IMAGES, method="encode")
    codes = np.asarray(apply(module, own, z, method="indices")).reshape(-1)
    state, _ = made.step(state, made.put(jax.tree.map(np.asarray, BATCH)), KEY)
    book = np.asarray(state.params["autoencoder"]["codebook"])
    for code in np.unique(codes):
        np.testing.assert_allclose(book[code], np.asarray(z).reshape(-1, 2)[codes == code].mean(axis=0), atol=1e-4)


def test_a_codebook_trained_by_the_loss_and_a_decoder_trained_alone():
    loss = AutoencoderLoss(codebook="gradient")
    for trains, moving in (
        ("all", {"encoder", "quant", "codebook", "decoder", "post_quant"}),
        ("decoder", {"decoder", "post_quant"}),
    ):
        made, state = stepper(VQ, loss, None, trains=trains, devices=1)
        assert set(state.params) == {"autoencoder"}
        before = jax.device_get(state.params["autoencoder"])
        state, _ = made.step(state, made.put(jax.tree.map(np.asarray, BATCH)), KEY)
        after = jax.device_get(state.params["autoencoder"])
        pairs = {part: zip(*map(jax.tree.leaves, (before[part], after[part])), strict=True) for part in before}
        assert {part for part, both in pairs.items() if any(not np.array_equal(a, b) for a, b in both)} == moving
