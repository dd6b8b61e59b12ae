import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.models.attention import attention
from ldm_jax.models.layers import (
    Downsample,
    GroupNorm,
    ResBlock,
    SpatialAttention,
    TimeEmbedding,
    Upsample,
    conv_of_any_map,
    depth_to_space,
    sinusoidal,
    space_to_depth,
)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_space_to_depth_is_inverted(rank, patch, side, channels):
    x = np.arange(2 * (side * patch) ** rank * channels, dtype=np.float32)
    x = x.reshape(2, *(side * patch,) * rank, channels)
    folded = space_to_depth(jnp.asarray(x), patch)
    chex.assert_shape(folded, (2, *(side,) * rank, patch**rank * channels))
    np.testing.assert_array_equal(depth_to_space(folded, patch), x)


def test_space_to_depth_keeps_a_patch_together():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 1], [2.0, 3.0, 6.0, 7.0])


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("layer", "scale", "channels"),
    [
        (ResBlock(16, groups=4), 1, 16),
        (SpatialAttention(heads=2, groups=4), 1, 8),
        (GroupNorm(groups=4), 1, 8),
        (Downsample(12), 0.5, 12),
        (Downsample(12, padding="both"), 0.5, 12),
        (Upsample(12), 2, 12),
    ],
)
def test_shapes_at_every_rank(rank, layer, scale, channels):
    x = jax.random.normal(jax.random.key(0), (2, *(4,) * rank, 8))
    out, params = jax.jit(layer.init_with_output)(jax.random.key(1), x)
    chex.assert_shape(out, (2, *(int(4 * scale),) * rank, channels))
    chex.assert_tree_all_finite((out, params))


def test_group_norm_in_bfloat16_has_float32_statistics():
    # A mean of 300 has a spacing of 2 in bfloat16: statistics in bfloat16 would lose the variation altogether.
    x = (300 + jnp.arange(64.0).reshape(1, 8, 8, 1) / 8).repeat(4, axis=-1)
    layer = GroupNorm(groups=1, dtype=jnp.bfloat16)
    out = layer.init_with_output(jax.random.key(0), x)[0]
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(jnp.std(out.astype(jnp.float32))), 1.0, atol=0.01)


def test_attention_is_softmax_and_respects_its_mask():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 5, 2, 4)) for i in range(3))
    mask = jnp.array([[True] * 5, [True, True, False, True, False]])
    logits = np.einsum("bnhd,bmhd->bhnm", q, k) / 2.0
    logits = np.where(np.asarray(mask)[:, None, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(attention(q, k, v, mask), np.einsum("bhnm,bmhd->bnhd", weights, v), atol=1e-5)


def test_sinusoidal_features():
    out = sinusoidal(jnp.array([0.0, 1.0]), 8)
    np.testing.assert_allclose(out[0], [1, 1, 1, 1, 0, 0, 0, 0])
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(out[1], np.concatenate([np.cos(frequencies), np.sin(frequencies)]), rtol=1e-6)


def test_time_embedding_tells_times_apart():
    layer = TimeEmbedding(16)
    out = layer.init_with_output(jax.random.key(0), jnp.array([0.0, 500.0, 999.0]))[0]
    chex.assert_shape(out, (3, 16))
    assert float(jnp.abs(out[0] - out[1]).max()) > 1e-3


@pytest.mark.parametrize(
    ("shape", "size", "stride", "pad"),
    [
        ((2, 2, 2, 3), 3, 1, 1),
        ((2, 4, 4, 3), 4, 1, 1),
        ((1, 2, 9, 2), 3, 1, 1),
        ((1, 3, 2), 3, 1, 1),
        ((1, 8, 8, 2), 4, 2, 1),
    ],
)
def test_convolutions_of_small_maps_are_the_usual_ones(shape, size, stride, pad):
    n, keys = len(shape) - 2, jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (*(size,) * n, shape[-1], 5))
    names = ("NWC", "WIO", "NWC") if n == 1 else ("NHWC", "HWIO", "NHWC")
    options = {"window_strides": (stride,) * n, "padding": ((pad, pad),) * n}
    options["dimension_numbers"] = jax.lax.conv_dimension_numbers(shape, kernel.shape, names)
    expected = jax.lax.conv_general_dilated(x, kernel, **options)
    np.testing.assert_allclose(conv_of_any_map(x, kernel, **options), expected, rtol=1e-4, atol=1e-4)
