"""What all denoisers have in common: their arguments, the conditions they were built for, and open fields."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import AUTOENCODERS, DENOISERS, OTHERS, inputs, randomised, shapes

from ldm_jax import models
from ldm_jax.errors import InputError
from ldm_jax.models import (
    Conditioning,
    Discriminator,
    DiT,
    DiTConfig,
    MMDiTConfig,
    UNet,
    UNetConfig,
    make_denoiser,
)
from tests.compiled import apply, init

NAMES = pytest.mark.parametrize("name", DENOISERS)


def fails(module, words, z, t, cond):
    with pytest.raises(InputError, match=words) as error:
        jax.eval_shape(lambda: module.init(jax.random.key(0), z, t, cond))
    assert "\n" not in str(error.value)


@NAMES
def test_a_scalar_t_is_every_examples_t(name):
    module, params, (z, _, cond) = DENOISERS[name], randomised(DENOISERS[name]), inputs(name)
    call = jax.jit(lambda t: apply(module, params, z, t, cond))
    expected = call(jnp.full(2, 0.25))
    for t in (jnp.asarray(0.25), 0.25):
        np.testing.assert_allclose(call(t), expected, rtol=1e-5, atol=1e-5)
    fails(module, r"t: shape \(3,\) must be \(\) or \(2,\)", z, jnp.ones(3), cond)


@NAMES
def test_the_networks_units_of_time(name):
    """By default t is in [0, 1]; a published network's, with time_scale 1, counts to 1000."""
    module, params, (z, t, cond) = DENOISERS[name], randomised(DENOISERS[name]), inputs(name)
    assert module.config.time_scale == 1000.0
    published = type(module)(dataclasses.replace(module.config, time_scale=1.0))
    one, two = apply(module, params, z, t, cond), apply(published, params, z, 1000.0 * t, cond)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@NAMES
def test_a_missing_part_is_one_line(name):
    module, (z, t, cond) = DENOISERS[name], inputs(name)
    kind = type(module).__name__
    for field in ("label", "context", "pooled"):
        if getattr(cond, field) is not None:
            fails(module, f"cond.{field}: this {kind} ", z, t, cond._replace(**{field: None}))
    fails(module, f"cond.{'context' if name == 'unet' else 'label'}: this {kind} ", z, t, None)
    fails(module, "cond.context: has 9 features", z, t, cond._replace(context=jnp.zeros((2, 3, 9))))
    image = jnp.zeros((*z.shape[:-1], 1))
    fails(module, "z has 3 channels and cond.image 1; together", z, t, cond._replace(image=image))
    wider = type(module)(dataclasses.replace(module.config, in_channels=4))
    fails(wider, f"z has 3 channels and cond.image 0; together this {kind} takes 4", z, t, cond)
    fails(wider, "cond.image: shape", z, t, cond._replace(image=jnp.zeros((2, 2, 2, 1))))
    out = jax.eval_shape(lambda: wider.init_with_output(jax.random.key(0), z, t, cond._replace(image=image))[0])
    assert out.shape == z.shape
    if kind != "UNet":
        fails(module, "latents: 3x4 must be multiples of patch", z[:, :3], t, cond)


def test_labels_and_time_ids_of_unets_are_needed():
    labelled = UNet(dataclasses.replace(DENOISERS["unet"].config, context_dim=0, num_classes=3))
    z, t, _ = inputs("unet")
    for cond in (None, Conditioning()):
        fails(labelled, "cond.label: this UNet embeds labels; give one an example", z, t, cond)
    added = UNet(dataclasses.replace(DENOISERS["unet"].config, added_dim=21, time_ids_dim=8, context_dim=0))
    parts = {"pooled": jnp.zeros((2, 5)), "time_ids": jnp.zeros((2, 2))}
    for field in parts:
        fails(added, f"cond.{field}: this UNet", z, t, Conditioning(**{**parts, field: None}))
    fails(
        added,
        "cond.pooled: with cond.time_ids embedded 22",
        z,
        t,
        Conditioning(**{**parts, "pooled": jnp.zeros((2, 6))}),
    )


@pytest.mark.parametrize("cond", [None, Conditioning()])
def test_an_unconditional_network_needs_no_conditioning(cond):
    module = DiT(DiTConfig(in_channels=3, out_channels=3, width=8, depth=1, heads=2))
    z = jnp.ones((2, 4, 4, 3))
    out = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), z, 0.5, cond)[0])
    assert out.shape == z.shape


@NAMES
def test_context_and_pooled_matter_and_masked_tokens_do_not(name):
    module, params, (z, t, cond) = DENOISERS[name], randomised(DENOISERS[name]), inputs(name)
    call = jax.jit(lambda cond: apply(module, params, z, t, cond))
    mask = jnp.array([[True, True, False]] * 2)
    base = call(cond._replace(context_mask=mask))
    other = cond.context.at[:, 2].set(7.0)
    np.testing.assert_array_equal(call(cond._replace(context=other, context_mask=mask)), base)
    assert float(jnp.abs(call(cond._replace(context=other, context_mask=mask | True)) - base).max()) > 1e-4
    if cond.pooled is not None:
        assert float(jnp.abs(call(cond._replace(pooled=cond.pooled + 1, context_mask=mask)) - base).max()) > 1e-4


def test_cross_attention_starts_at_zero():
    """A DiT that learns to listen starts as the DiT that doesn't."""
    module = DENOISERS["dit"]
    params = init(module, jax.random.key(0), *module.example_inputs())
    for i in range(module.config.depth):
        assert not np.any(params[f"block{i}"]["cross"]["out"]["kernel"])
        assert np.any(params[f"block{i}"]["cross"]["query"]["kernel"])


def test_mmdit_starts_as_zero_and_every_part_learns():
    """adaLN-Zero: the output is 0, and a step later every parameter of the image's path has a gradient."""
    module, (z, t, cond) = DENOISERS["mmdit"], inputs("mmdit")
    params = init(module, jax.random.key(0), z, t, cond)
    np.testing.assert_array_equal(apply(module, params, z, t, cond), 0.0)
    blocks = params["block0"]
    assert not np.any(blocks["image"]["modulation"]["kernel"]) and not np.any(blocks["text"]["modulation"]["kernel"])
    # Xavier uniform: within sqrt(6 / (fan_in + fan_out)).
    kernel = np.abs(blocks["image"]["query"]["kernel"])
    assert 0.9 * np.sqrt(6 / 32) < kernel.max() <= np.sqrt(6 / 32)
    assert "positions" not in params
    moved = jax.tree.map(lambda p: p + 0.05, params)
    gradient = jax.jit(jax.grad(lambda p: jnp.square(apply(module, p, z, t, cond)).mean()))(moved)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["block0"]["image"]["mlp"]))
    assert np.any(gradient["label"]["embedding"]) and np.any(gradient["pooled1"]["kernel"])


def test_a_stored_table_of_positions_gets_no_gradient():
    module = type(DENOISERS["mmdit"])(dataclasses.replace(DENOISERS["mmdit"].config, positions=4))
    params, args = randomised(module), inputs("mmdit")
    gradient = jax.jit(jax.grad(lambda p: jnp.square(apply(module, p, *args)).mean()))(params)
    assert not np.any(gradient["positions"]) and np.any(gradient["patches"]["kernel"])
    fails(module, "2 tokens, MMDiT's table of positions has 4 a side on two axes", args[0][:, 0], *args[1:])


GIVEN = {"latent_channels": 4, "num_classes": 10}
TEXT = {"context_dim": 12, "pooled_dim": 8}


@pytest.mark.parametrize(
    ("config", "given", "filled"),
    [
        (DiTConfig(num_classes=-1), {}, {"in_channels": 4, "out_channels": 4, "num_classes": 10}),
        (DiTConfig(), {}, {"num_classes": 0, "context_dim": 0}),
        (DiTConfig(context_dim=-1, pooled_dim=-1), TEXT | {"image_channels": 5}, TEXT | {"in_channels": 9}),
        (DiTConfig(context_dim=-1), TEXT, {"context_dim": 12, "pooled_dim": 0}),
        (DiTConfig(context_dim=-1), {}, {"context_dim": 0}),
        (MMDiTConfig(), TEXT, TEXT | {"out_channels": 4}),
        (MMDiTConfig(num_classes=-1), {"context_dim": 12}, {"pooled_dim": 0, "num_classes": 10}),
        (UNetConfig(num_classes=-1), {}, {"context_dim": 0, "class_rows": 11, "time_scale": 1000.0}),
        (UNetConfig(context_dim=0, num_classes=10, class_rows=11), {}, {"class_rows": 11}),
        (UNetConfig(time_scale=7.0), TEXT, {"context_dim": 12, "added_dim": 0, "class_rows": 0, "time_scale": 7.0}),
        (UNetConfig(added_dim=-1), TEXT, {"context_dim": 12, "added_dim": 8 + 6 * 256}),
        (UNetConfig(added_dim=8 + 256), TEXT, {"added_dim": 264}),
    ],
)
def test_open_fields_are_filled_in(config, given, filled):
    fitted = config.fitted(**GIVEN, **given)
    assert {field: getattr(fitted, field) for field in filled} == filled
    assert fitted.fitted(**GIVEN, **given) == fitted
    shapes(make_denoiser(dataclasses.replace(fitted, **SMALL[type(fitted)])))


SMALL = {
    DiTConfig: {"width": 8, "depth": 1, "heads": 2},
    MMDiTConfig: {"width": 8, "depth": 1, "heads": 2},
    UNetConfig: {"channels": (8,), "attention": (1,), "heads": (2,), "blocks": 1, "groups": 4},
}


@pytest.mark.parametrize(
    ("config", "given", "words"),
    [
        (DiTConfig(in_channels=5), {}, r"denoiser.in_channels: 5 must be 0 or the latents' channels \(4\)$"),
        (UNetConfig(in_channels=4), {"image_channels": 3}, r"denoiser.in_channels: 4 .* \(4\) \+ 3 of the conditions'"),
        (MMDiTConfig(out_channels=8), TEXT, "denoiser.out_channels: 8 must be 0"),
        (DiTConfig(num_classes=5), {}, "denoiser.num_classes: 5 must be -1, 0 or the data's 10"),
        (DiTConfig(context_dim=7), TEXT, "denoiser.context_dim: 7 must be -1, 0 or the conditions' 12"),
        (UNetConfig(context_dim=768), {}, "denoiser.context_dim: 768 must be -1 or 0: the conditions give none"),
        (DiTConfig(), TEXT, "denoiser.context_dim: 0 leaves the conditions unheard; it must be -1 or 12"),
        (UNetConfig(context_dim=0), TEXT, "denoiser.context_dim: 0 leaves"),
        (UNetConfig(context_dim=0, class_rows=9), {}, "denoiser.class_rows: 9 must be 0"),
        (UNetConfig(added_dim=9), TEXT, "denoiser.added_dim: 9 must be -1, 0 or 1544"),
        (UNetConfig(added_dim=9), {}, "denoiser.added_dim: 9 must be -1 or 0"),
        (MMDiTConfig(), {}, "denoiser: MMDiT needs a condition that gives tokens"),
        (MMDiTConfig(pooled_dim=9), TEXT, "denoiser.pooled_dim: 9 must be -1, 0 or the conditions' 8"),
    ],
)
def test_set_fields_that_contradict(config, given, words):
    with pytest.raises(InputError, match=words):
        config.fitted(**GIVEN, **given)


OPEN = [DiTConfig(), UNetConfig(), MMDiTConfig(), DiTConfig(in_channels=3, out_channels=3, num_classes=-1)]


@pytest.mark.parametrize("config", OPEN)
def test_an_open_network_is_not_called(config):
    module = make_denoiser(dataclasses.replace(config, **SMALL[type(config)]))
    fails(module, r"denoiser\.\w+: (0|-1) is open; \w+Config\.fitted fills it in", jnp.zeros((1, 4, 4, 3)), 0.0, None)


def op_by_op(function):
    return function


# Audio, images and video through one code: networks that are not about pictures by nature. Op by op takes longer.
SLOW = [pytest.param(op_by_op, rank, marks=pytest.mark.slow) for rank in (1, 3)]
RANKS = pytest.mark.parametrize(("way", "rank"), [*((jax.jit, rank) for rank in (1, 2, 3)), (op_by_op, 2), *SLOW])


@RANKS
def test_denoisers_of_any_rank(way, rank):
    for name, module in DENOISERS.items():
        z, t, cond = inputs(name, rank)
        out = way(lambda p, *args, m=module: models.apply(m, p, *args))(randomised(module, rank), z, t, cond)
        chex.assert_shape(out, z.shape)
        chex.assert_type(out, jnp.float32)
        chex.assert_tree_all_finite(out)


@RANKS
def test_autoencoders_of_any_rank(way, rank):
    for name in ("kl", "tiny"):
        module, (x,) = AUTOENCODERS[name], inputs(name, rank)
        out, encoded = way(lambda p, x, m=module: models.apply(m, p, x))(randomised(module, rank), x)
        chex.assert_shape(out, x.shape)
        latents = (2, *(4,) * rank, module.config.latent_channels)
        chex.assert_shape(jax.tree.leaves(encoded)[0], latents)


@RANKS
def test_discriminators_of_any_rank(way, rank):
    module: Discriminator = OTHERS["discriminator"]
    (x,) = inputs("discriminator", rank)
    out = way(lambda p, x: models.apply(module, p, x))(randomised(module, rank), x)
    chex.assert_shape(out, (2, *(2,) * rank, 1))
