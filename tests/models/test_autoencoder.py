import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ldm_jax.errors import InputError
from ldm_jax.models import Autoencoder, AutoencoderConfig, Posterior, apply
from tests import compiled

TINY = AutoencoderConfig(image_channels=1, latent_channels=3, channels=8, multipliers=(1, 2), blocks=1, groups=4)


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(((1, 2), 1, True, "float32"), ((1,), 4, False, "float32"), ((1,), 2, True, "bfloat16"))
    def test_shapes(self, multipliers, stem, attention, dtype):
        config = AutoencoderConfig(3, 4, 8, multipliers, 1, stem, attention, 4, dtype=dtype)
        module = Autoencoder(config)
        x = jnp.ones((2, 8, 8, 3))
        params = jax.jit(module.init)(jax.random.key(0), x)["params"]
        encode = self.variant(lambda p, x: apply(module, p, x, method="encode"))
        decode = self.variant(lambda p, z: apply(module, p, z, method="decode"))
        posterior = encode(params, x)
        side = 8 // config.factor
        chex.assert_shape([posterior.mean, posterior.logvar], (2, side, side, 4))
        image = decode(params, posterior.mean)
        chex.assert_shape(image, x.shape)
        chex.assert_type([posterior.mean, image], jnp.float32)
        chex.assert_tree_all_finite((params, posterior, image))


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16, 32])
def test_every_factor(factor):
    levels = factor.bit_length()
    for stem in {1, min(factor, 4)}:
        config = AutoencoderConfig(1, 2, 4, (1,) * (levels - stem.bit_length() + 1), 1, stem, False, 4)
        assert config.factor == factor
        module = Autoencoder(config)
        out = jax.eval_shape(lambda k, m=module: m.init_with_output(k, jnp.zeros((1, 64, 64, 1)))[0], jax.random.key(0))
        chex.assert_shape(out[0], (1, 64, 64, 1))
        chex.assert_shape(out[1].mean, (1, 64 // factor, 64 // factor, 2))


@pytest.mark.parametrize("space", [(16,), (8, 12), (4, 4, 4)])
def test_every_rank(space):
    module = Autoencoder(TINY)
    x = jax.random.normal(jax.random.key(0), (1, *space, 1))
    (image, posterior), _ = jax.jit(module.init_with_output)(jax.random.key(1), x)
    chex.assert_shape(image, x.shape)
    chex.assert_shape(posterior.mean, (1, *(s // 2 for s in space), 3))


def test_kl_is_the_closed_form():
    # Monte Carlo: E[log q(z) - log p(z)] under q.
    posterior = Posterior(jnp.array([[[0.5, -1.0]]]), jnp.array([[[0.3, -2.0]]]))
    n = np.random.default_rng(0).standard_normal((400_000, 1, 2))
    z = np.asarray(posterior.mean) + np.exp(0.5 * np.asarray(posterior.logvar)) * n
    log_q = -0.5 * (np.asarray(posterior.logvar) + n**2)
    expected = (log_q + 0.5 * z**2).sum(axis=(1, 2)).mean()
    np.testing.assert_allclose(posterior.kl(), [expected], rtol=5e-3)


def test_sigmoid_output_keeps_images_in_range():
    config = AutoencoderConfig(1, 2, 4, (1,), 1, 1, False, 4, sigmoid_output=True)
    module = Autoencoder(config)
    x = jnp.zeros((1, 4, 4, 1))
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    params["decoder"]["conv_out"]["bias"] += 5.0
    z = jnp.ones((1, 4, 4, 2))
    features = compiled.apply(module, params, z, method="decode_features")
    assert float(jnp.abs(features).max()) > 1.0
    assert float(jnp.abs(compiled.apply(module, params, z, method="decode")).max()) <= 1.0


def test_encoder_sees_no_future_of_the_batch():
    module = Autoencoder(TINY)
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    params = jax.jit(module.init)(jax.random.key(1), x)["params"]
    whole = compiled.apply(module, params, x, method="encode").mean
    alone = compiled.apply(module, params, x[1:2], method="encode").mean
    np.testing.assert_allclose(whole[1:2], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"channels": 10}, "groups"), ({"multipliers": ()}, "multipliers"), ({"stem": 0}, "stem")],
)
def test_bad_configs(change, words):
    with pytest.raises(InputError, match=words):
        AutoencoderConfig(**{"groups": 4, "channels": 8, **change})
