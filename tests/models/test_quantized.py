"""FSQ and VQ codes, resampling with shortcuts, recomputation, and the discriminator."""

import chex
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
    Discriminator,
    DiscriminatorConfig,
    FSQAutoencoder,
    FSQConfig,
    VQAutoencoder,
    VQConfig,
)
from ldm_jax.models.layers import Downsample, Upsample
from tests.compiled import apply

SMALL = {"image_channels": 1, "channels": 4, "multipliers": (1, 2), "blocks": 1, "groups": 2, "attention": False}


def fsq(levels):
    return FSQAutoencoder(FSQConfig(**SMALL, latent_channels=len(levels), levels=levels))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(2, 8), min_size=1, max_size=4).map(tuple))
def test_fsq_has_exactly_its_codes(levels):
    """Every combination of levels is reached, each has an index of its own, and quantising twice changes nothing."""
    module = fsq(levels)
    sides = [np.linspace(-4.0, 4.0, 41) for _ in levels]
    z = np.stack([s[np.random.default_rng(i).integers(0, 41, 3000)] for i, s in enumerate(sides)], axis=-1)
    z = jnp.asarray(z, jnp.float32)[:, None]
    codes = np.asarray(module.apply({}, z, method="quantize")).reshape(-1, len(levels))
    indices = np.asarray(module.apply({}, z, method="indices")).reshape(-1)
    for channel, count in enumerate(levels):
        assert len(np.unique(codes[:, channel])) == count
        assert np.abs(codes[:, channel]).max() <= 1.0
    pairs = {(int(i), *map(float, c)) for i, c in zip(indices, codes, strict=True)}
    assert len({pair[0] for pair in pairs}) == len({pair[1:] for pair in pairs}) == len(pairs)
    assert indices.min() >= 0 and indices.max() < module.config.codebook_size == np.prod(levels)


def test_fsq_passes_gradients_straight_through():
    gradient = jax.grad(lambda z: fsq((5, 4)).apply({}, z, method="quantize").sum())(jnp.zeros((1, 1, 2)))
    # Odd levels: tanh' (0) x half / (levels // 2) = 1 up to the margin; nothing is lost in rounding.
    np.testing.assert_allclose(gradient[0, 0, 0], 2.002 / 2.0, rtol=1e-3)
    assert float(gradient[0, 0, 1]) > 0.3


def test_vq_takes_the_nearest_entry():
    module = VQAutoencoder(VQConfig(**SMALL, latent_channels=2, codebook_size=9))
    book = jax.random.normal(jax.random.key(0), (9, 2))
    z = jax.random.normal(jax.random.key(1), (3, 2, 2, 2))
    codes = module.apply({"params": {"codebook": book}}, z, method="quantize")
    distances = np.linalg.norm(np.asarray(z)[..., None, :] - np.asarray(book), axis=-1)
    np.testing.assert_array_equal(codes, np.asarray(book)[distances.argmin(axis=-1)])


def test_residual_resampling_starts_as_the_shortcut():
    """With a zero convolution, down and up again keep what the widths allow; up alone keeps everything."""
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    down = Downsample(12, residual=True)
    zero = jax.tree.map(jnp.zeros_like, down.init(jax.random.key(0), x))
    h = down.apply(zero, x)
    np.testing.assert_allclose(h[0, 0, 0].reshape(3, 4)[0], x[0, :2, :2, 0].reshape(-1), rtol=1e-6)
    up = Upsample(3, residual=True)
    back = up.apply(jax.tree.map(jnp.zeros_like, up.init(jax.random.key(0), h)), h)
    np.testing.assert_allclose(back, x, rtol=1e-6)
    halved = Downsample(6, residual=True)
    h = halved.apply(jax.tree.map(jnp.zeros_like, halved.init(jax.random.key(0), x)), x)
    np.testing.assert_allclose(h[0, 0, 0, :2], x[0, :2, :2, 0].mean(axis=1), rtol=1e-5)


def test_recomputation_changes_no_gradient():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    found = []
    for remat in (False, True):
        module = Autoencoder(AutoencoderConfig(**SMALL, latent_channels=2, residual_resampling=True, remat=remat))
        params = jax.jit(module.init)(jax.random.key(1), x)["params"]
        found.append(jax.jit(jax.grad(lambda p, m=module: jnp.square(apply(m, p, x)[0]).mean()))(params))
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_discriminator(norm):
    module = Discriminator(DiscriminatorConfig(3, 8, 2, norm))
    params = jax.jit(module.init)(jax.random.key(0), *module.example_inputs())["params"]
    x = jax.random.normal(jax.random.key(1), (4, 24, 24, 3))
    logits = apply(module, params, x)
    chex.assert_shape(logits, (4, 4, 4, 1))
    chex.assert_shape(apply(module, params, *module.example_inputs()), (1, 1, 1, 1))
    # Batch statistics tie the images together, group statistics don't.
    alone = apply(module, params, x[:1])
    assert np.allclose(alone[0], logits[0], atol=1e-4) == (norm == "group")


def test_published_discriminator_size():
    module = Discriminator(DiscriminatorConfig(3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), *module.example_inputs())
    # pix2pix's 70-pixel PatchGAN of one image: 4 x 4 kernels of 64, 128, 256, 512 and 1, no bias before norms.
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == kernels + 64 + 1 + 2 * (128 + 256 + 512)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: FSQConfig(levels=(8, 1, 5, 5)), "levels"),
        (lambda: FSQConfig(levels=(8, 8)), "latent_channels"),
        (lambda: VQConfig(quant_conv=False, codebook_dim=2), "codebook_dim"),
        (lambda: DiscriminatorConfig(layers=0), "layers"),
        (lambda: AutoencoderConfig(multipliers=(1, 8), residual_resampling=True), "multipliers"),
    ],
)
def test_bad_configs(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
