"""The first stage in bfloat16 on photographs: finite, and near float32, forwards and backwards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from ldm_jax.data import prepare, to_float
from ldm_jax.models import Autoencoder, AutoencoderConfig, apply

F8 = AutoencoderConfig(channels=16, multipliers=(1, 2, 4, 4), blocks=1, groups=4)


def photographs(size):
    """Two photographs [2 size size 3] in [-1, 1]: much sky above a roof, and a flower before a dark ground."""
    return to_float(np.stack([prepare(image, size, 3) for image in load_sample_images().images]))


def difference(a, b):
    """|a - b| / |b| over all leaves."""
    norm = [float(jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(t)))) for t in (_minus(a, b), b)]
    return norm[0] / norm[1]


def _minus(a, b):
    return jax.tree.map(jnp.subtract, a, b)


@pytest.mark.slow
def test_bfloat16_is_finite_and_near_float32():
    x = photographs(512)
    params = jax.jit(Autoencoder(F8).init)(jax.random.key(0), x[:1, :64, :64])["params"]

    def everything(dtype):
        module = Autoencoder(dataclasses.replace(F8, dtype=dtype))

        @jax.jit
        def run(params, x):
            def loss(params):
                posterior = apply(module, params, x, method="encode")
                image = apply(module, params, posterior.mean, method="decode")
                kl = posterior.kl().mean() / x[0].size
                return jnp.abs(image - x).mean() + 1e-6 * kl, (posterior, image)

            (value, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            return value, outputs, gradient

        return run(params, x)

    (value, (posterior, image), gradient), (value16, (posterior16, image16), gradient16) = (
        everything(dtype) for dtype in ("float32", "bfloat16")
    )
    for leaf in jax.tree.leaves((value16, posterior16, image16, gradient16)):
        assert leaf.dtype == jnp.float32
        assert bool(jnp.isfinite(leaf).all())
    errors = {
        "mean": difference(posterior16.mean, posterior.mean),
        "logvar": difference(posterior16.logvar, posterior.logvar),
        "image": difference(image16, image),
        "gradient": difference(gradient16, gradient),
    }
    print(errors)
    assert abs(float(value16 - value)) < 0.01 * float(value)
    # A rounding to bfloat16 is off by up to 0.4 %, and some fifty of them follow each other.
    assert 1e-4 < errors["mean"] < 0.03
    assert 1e-4 < errors["logvar"] < 0.03
    assert errors["image"] < 0.06
    assert errors["gradient"] < 0.06
