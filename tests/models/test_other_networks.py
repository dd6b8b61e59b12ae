"""UNet, MMDiT, text encoders and autoencoders by themselves; against PyTorch they are in tests/pretrained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.errors import InputError
from ldm_jax.models import (
    Conditioning,
    MMDiT,
    MMDiTConfig,
    TextEncoder,
    TextEncoderConfig,
    TinyAutoencoder,
    TinyAutoencoderConfig,
    UNet,
    UNetConfig,
    VQAutoencoder,
    VQConfig,
)
from tests.compiled import apply

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "channels": (8, 16),
    "attention": (1, 0),
    "heads": (2, 2),
    "groups": 4,
    "context_dim": 12,
}
MMDIT = {
    "in_channels": 16,
    "out_channels": 16,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "context_dim": 12,
    "pooled_dim": 10,
    "positions": 8,
    "base_size": 4,
}
TINY = {"encoder_channels": (8, 8), "encoder_blocks": (1, 1), "decoder_channels": (8, 8), "decoder_blocks": (1, 1)}
TEXT = {"vocabulary": 9, "positions": 6, "width": 8, "depth": 2, "heads": 2, "hidden": 8}
VQ = {"channels": 8, "groups": 4, "multipliers": (1, 2), "codebook_size": 16}


def shapes(module):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *module.example_inputs())["params"])


@pytest.mark.parametrize(
    "module",
    [
        UNet(UNetConfig(dtype="bfloat16", **UNET)),
        MMDiT(MMDiTConfig(dtype="bfloat16", **MMDIT)),
        TextEncoder(TextEncoderConfig(dtype="bfloat16", **TEXT)),
        TinyAutoencoder(TinyAutoencoderConfig(dtype="bfloat16", **TINY)),
        VQAutoencoder(VQConfig(dtype="bfloat16", **VQ)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_parameters_stay_float32(module):
    params = shapes(module)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    out = jax.eval_shape(lambda p: apply(module, p, *module.example_inputs()), params)
    if not isinstance(module, TextEncoder):
        assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_any_number_of_axes(rank):
    """Audio, images and video go through the same UNet and autoencoders."""
    space = (4,) * rank
    unet = UNet(UNetConfig(**UNET))
    cond = Conditioning(context=jnp.zeros((2, 3, 12)))
    z = jnp.zeros((2, *space, 4))
    out = jax.eval_shape(lambda: unet.init_with_output(jax.random.key(0), z, jnp.zeros(2), cond)[0])
    assert out.shape == z.shape
    for module, factor in ((TinyAutoencoder(TinyAutoencoderConfig(**TINY)), 2), (VQAutoencoder(VQConfig(**VQ)), 2)):
        x = jnp.zeros((2, *space, 3))
        image, latents = jax.eval_shape(lambda m=module, x=x: m.init_with_output(jax.random.key(0), x)[0])
        assert image.shape == x.shape and latents.shape == (2, *(s // factor for s in space), 4)


def test_masked_tokens_do_not_count():
    """What stands in a masked place changes nothing, in cross-attention, joint attention and text encoders."""
    random = jax.random.normal(jax.random.key(1), (1, 3, 12))
    mask = jnp.array([[True, True, False]])
    other = random.at[:, 2].set(9.0)
    draw = np.random.default_rng(0)
    for module in (UNet(UNetConfig(**UNET)), MMDiT(MMDiTConfig(**MMDIT))):
        z, t, _ = module.example_inputs()
        pooled = jnp.ones((1, 10)) if isinstance(module, MMDiT) else None
        params = jax.tree.map(lambda leaf: draw.standard_normal(leaf.shape).astype(np.float32), shapes(module))
        call = jax.jit(lambda p, *args, m=module: apply(m, p, *args))
        one, two, three = (
            call(params, z + 1, t, Conditioning(context=c, context_mask=m, pooled=pooled))
            for c, m in ((random, mask), (other, mask), (other, mask | True))
        )
        np.testing.assert_array_equal(one, two)
        assert not np.allclose(one, three)
    text = TextEncoder(TextEncoderConfig(causal=False, **TEXT))
    params = jax.jit(text.init)(jax.random.key(0), *text.example_inputs())["params"]
    one, two = (apply(text, params, jnp.array([[1, 2, i]]), mask).tokens[:, :2] for i in (3, 4))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_causal_text_sees_the_past_alone():
    text = TextEncoder(TextEncoderConfig(**TEXT))
    params = jax.jit(text.init)(jax.random.key(0), *text.example_inputs())["params"]
    one, two = (apply(text, params, jnp.array([[1, 2, i]])).tokens for i in (3, 4))
    np.testing.assert_allclose(one[:, :2], two[:, :2], rtol=1e-6)
    assert not np.allclose(one[:, 2], two[:, 2])


@pytest.mark.parametrize(
    "build",
    [
        lambda: UNetConfig(channels=(8,)),
        lambda: UNetConfig(**{**UNET, "heads": (3, 2)}),
        lambda: UNetConfig(**{**UNET, "context_dim": 0, "attention": (2, 0)}),
        lambda: MMDiTConfig(**{**MMDIT, "heads": 3}),
        lambda: MMDiTConfig(dual_layers=(24,)),
        lambda: TextEncoderConfig(width=10, heads=3),
        lambda: TextEncoderConfig(depth=0),
        lambda: TinyAutoencoderConfig(encoder_channels=(8, 16, 8, 8)),
        lambda: VQConfig(codebook_size=0),
        lambda: VQConfig(attention_levels=(7,)),
    ],
)
def test_configs_that_are_wrong(build):
    with pytest.raises(InputError):
        build()


def test_inputs_that_are_missing():
    for module in (UNet(UNetConfig(**UNET)), MMDiT(MMDiTConfig(**MMDIT))):
        z, t, _ = module.example_inputs()
        with pytest.raises(InputError, match=r"cond\.context"):
            module.init(jax.random.key(0), z, t)
    module = MMDiT(MMDiTConfig(**MMDIT))
    _, t, cond = module.example_inputs()
    with pytest.raises(InputError, match="table of positions"):
        module.init(jax.random.key(0), jnp.zeros((1, 20, 4, 16)), t, cond)
    with pytest.raises(InputError, match="6 at most"):
        TextEncoder(TextEncoderConfig(**TEXT)).init(jax.random.key(0), jnp.zeros((1, 7), jnp.int32))
