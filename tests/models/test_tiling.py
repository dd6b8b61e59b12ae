"""Tiles and slices against the whole, at every size."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.errors import InputError
from ldm_jax.models import (
    Autoencoder,
    AutoencoderConfig,
    Posterior,
    TinyAutoencoder,
    TinyAutoencoderConfig,
    VQAutoencoder,
    VQConfig,
    apply,
)
from ldm_jax.models.tiling import Axis, sliced, tiled

KL = Autoencoder(AutoencoderConfig(3, 2, 8, (1, 2), 1, attention=False, groups=4))
VQ = VQAutoencoder(VQConfig(3, 2, 8, (1, 2), 1, attention=False, groups=4, codebook_size=16))
TINY = TinyAutoencoder(TinyAutoencoderConfig(3, 2, (4, 4), (1, 1), (4, 4), (1, 1)))


def images(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def method(module, name, key=1):
    params = jax.jit(module.init)(jax.random.key(key), *module.example_inputs())["params"]
    return lambda x: apply(module, params, x, method=name)


@given(st.integers(1, 300), st.integers(1, 90), st.data())
@settings(deadline=None, max_examples=200)
def test_weights_sum_to_one_and_tiles_have_one_size(size, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    axis = Axis.of(size, tile, overlap)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.tile == size
    assert all(axis.tile - (b - a) >= overlap for a, b in zip(axis.starts, axis.starts[1:], strict=False))
    total = np.zeros(size)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert weight.min() >= 0
        total[start : start + axis.tile] += weight
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)


def test_neighbours_cross_fade_symmetrically():
    first, second = Axis.of(24, 16, 8).weights
    np.testing.assert_allclose(first[8:] + second[:8], 1.0)
    np.testing.assert_allclose(first, second[::-1])
    np.testing.assert_array_equal(first[:10], 1.0)
    np.testing.assert_array_equal(first[-2:], 0.0)


def pool(x):
    """Means and maxima of 2x2 squares."""
    b, h, w, c = x.shape
    squares = x.reshape(b, h // 2, 2, w // 2, 2, c)
    return Posterior(squares.mean((2, 4)), squares.max((2, 4)))


def enlarge(x):
    return jnp.repeat(jnp.repeat(x, 3, axis=1), 3, axis=2)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 6), st.data())
@settings(deadline=None, max_examples=4)
def test_local_functions_of_any_size_are_the_same_in_tiles(height, width, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))

    @jax.jit
    def parts(x, y):
        return tiled(pool, x, tile=2 * tile, overlap=2 * overlap), tiled(enlarge, y, tile=tile, overlap=overlap)

    x, y = images(1, 2 * height, 2 * width, 1), images(1, height, width, 1)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, parts(x, y), (pool(x), enlarge(y)))


def test_one_tile_is_the_whole_exactly():
    x = images(2, 16, 12, 3)
    whole, parts = pool(x), tiled(pool, x, tile=16, overlap=8)
    assert type(parts) is Posterior
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_kl_encodes_to_the_same_shapes_and_types():
    encode, x = method(KL, "encode"), images(2, 20, 12, 3)
    whole, parts = jax.jit(lambda x: (encode(x), tiled(encode, x, tile=8, overlap=4)))(x)
    jax.tree.map(lambda w, p: np.testing.assert_equal((p.shape, p.dtype), (w.shape, w.dtype)), whole, parts)
    assert bool(jnp.isfinite(parts.mean).all())


def test_vq_decodes_slice_by_slice_and_tile_by_tile():
    decode, z = method(VQ, "decode"), images(2, 10, 6, 2)

    def by_tile(z):
        return tiled(decode, z, tile=(6, 4), overlap=(2, 1))

    tiles, both, slices = jax.jit(lambda z: (by_tile(z), sliced(by_tile, z), sliced(decode, z)))(z)
    np.testing.assert_allclose(both, tiles, rtol=1e-4, atol=1e-5)
    assert tiles.shape == slices.shape == (2, 20, 12, 3)
    # GroupNorm sees tiles instead of images.
    assert np.abs(tiles - slices).max() > 1e-3


def test_convolutions_are_the_same_everywhere_where_the_overlap_covers_what_they_see():
    # The receptive field's radius: 16 pixels for the encoder, fewer than 10 latent positions for the decoder.
    encode, decode = method(TINY, "encode"), method(TINY, "decode")
    x = images(1, 120, 76, 3)
    z = jax.jit(encode)(x)
    np.testing.assert_allclose(jax.jit(partial(tiled, encode, tile=72, overlap=64))(x), z, atol=2e-6)
    np.testing.assert_allclose(jax.jit(partial(tiled, decode, tile=44, overlap=40))(z), jax.jit(decode)(z), atol=1e-5)
    # Far too little overlap shows, so the agreement above is not for nothing.
    assert np.abs(jax.jit(partial(tiled, encode, tile=8, overlap=0))(x) - z).max() > 1e-3


def test_any_number_of_space_axes():
    for space in ((23,), (6, 9, 7)):
        x = images(2, *space, 2)
        parts = jax.jit(partial(tiled, jnp.square, tile=4, overlap=1))(x)
        np.testing.assert_allclose(parts, jnp.square(x), rtol=1e-5, atol=1e-6)


def temporary_bytes(fn, x):
    return jax.jit(fn).lower(x).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_a_tiles_and_an_examples():
    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(3, (3, 3))(nn.silu(nn.Conv(64, (3, 3))(x)))

    net, x = Wide(), images(4, 96, 96, 3)
    params = jax.jit(net.init)(jax.random.key(0), x)
    fn = partial(net.apply, params)
    whole = temporary_bytes(fn, x)
    # 16 tiles' area to one, and 4 examples to one; the sums that tiles are added to remain.
    assert temporary_bytes(partial(tiled, fn, tile=24, overlap=8), x) < whole / 4
    assert temporary_bytes(partial(sliced, fn), x) < whole / 2


def test_gradients_flow_through_tiles():
    x = images(1, 10, 10, 1)
    grad = jax.jit(jax.grad(lambda x: tiled(jnp.square, x, tile=6, overlap=2).sum()))(x)
    np.testing.assert_allclose(grad, 2 * x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "message"),
    [
        (16, 8, 8, "overlap: 8 must be at least 0 and less than the tile"),
        (16, 8, -2, "overlap: -2"),
        (16, 0, 0, "overlap: 0 must be"),
        (16, 8, 3, "overlap: 3 must be a multiple of 2"),
        (15, 8, 2, "size: 15 must be a multiple of 2"),
        (16, (8,), 2, "tile: .* one for each of 2 space axes"),
    ],
)
def test_what_does_not_divide_is_refused(size, tile, overlap, message):
    with pytest.raises(InputError, match=message):
        tiled(pool, images(1, size, 16, 1), tile=tile, overlap=overlap)
