"""LPIPS, EfficientNet, Inception and vision transformers, against what PyTorch's originals gave."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.errors import InputError
from ldm_jax.models import LPIPS, LPIPSConfig
from ldm_jax.pretrained import load_lpips
from tests.compiled import apply
from tests.feature_references import reference, script


def pictures(seed, *shape):
    """Images in [-1, 1]."""
    return jnp.asarray(script().pictures(seed, shape) / 127.5 - 1, jnp.float32)


@functools.cache
def lpips(network):
    return load_lpips(network)


@functools.cache
def slope(network):
    """(params, x, y) -> distances, and the gradient of their sum in x; y's features are computed apart."""
    module, _ = lpips(network)

    def loss(x, params, target):
        distance = apply(module, params, apply(module, params, x, method="features"), target, method="distance")
        return distance.sum(), distance

    def whole(params, x, y):
        gradient, distance = jax.grad(loss, has_aux=True)(x, params, apply(module, params, y, method="features"))
        return distance, gradient

    return jax.jit(whole)


LARGE = [pytest.param(*case, marks=pytest.mark.slow) for case in (("vgg16", 32), ("vgg16", 64), ("alexnet", 64))]


@pytest.mark.parametrize(("network", "side"), [("vgg16", 16), ("alexnet", 32), *LARGE])
def test_lpips_is_that_of_its_authors(network, side):
    """lpips 0.1.4 with the same weights."""
    _, params = lpips(network)
    x, y = pictures(1, 3, side, side, 3), pictures(2, 3, side, side, 3)
    y = y.at[2].set(0.9 * x[2])
    ours, _ = slope(network)(params, x, y)
    np.testing.assert_allclose(ours, reference("lpips")[f"{network}/{side}"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("network", "side"), [("vgg16", 16), ("alexnet", 32)])
def test_the_gradient_of_lpips(network, side):
    """It is PyTorch's and not 0: there are perceptual losses whose gradient is cut off."""
    grey = pictures(3, 3, side, side, 1)
    x = jnp.repeat(grey, 3, axis=-1)
    distance, gradient = slope(network)(lpips(network)[1], x, x[::-1])
    np.testing.assert_allclose(distance, reference("lpips")[f"{network}/grey"], rtol=1e-4, atol=1e-6)
    theirs = reference("lpips")[f"{network}/grey_gradient"]
    assert np.linalg.norm(theirs) > 0.01
    np.testing.assert_allclose(gradient.sum(-1), theirs, atol=2e-4 * np.abs(theirs).max())


def test_lpips_of_grey_images():
    """One channel is shown three times."""
    module, params = lpips("alexnet")
    x = pictures(3, 3, 32, 32, 1)
    np.testing.assert_allclose(
        apply(module, params, x, x[::-1]), reference("lpips")["alexnet/grey"], rtol=1e-4, atol=1e-6
    )


def test_lpips_of_equal_and_of_empty_images():
    """0 and a gradient of 0 where x is y; no NaN where every feature is 0."""
    _, params = lpips("alexnet")
    x = pictures(1, 3, 32, 32, 3)
    distance, gradient = slope("alexnet")(params, x, x)
    assert np.abs(distance).max() < 1e-9 and np.abs(gradient).max() < 1e-6
    dead = jax.tree.map(np.zeros_like, params) | {name: params[name] for name in params if name.startswith("head")}
    for weights in (params, dead):
        _, gradient = slope("alexnet")(weights, jnp.full_like(x, -1.0), x)
        assert np.isfinite(gradient).all()


def test_lpips_of_small_images():
    """Images that the poolings would use up are enlarged, and nothing else is."""
    module, params = lpips("alexnet")
    x, y = pictures(1, 3, 16, 12, 3), pictures(2, 3, 16, 12, 3)
    shape = (3, 43, 32, 3)
    enlarged = apply(module, params, jax.image.resize(x, shape, "bilinear"), jax.image.resize(y, shape, "bilinear"))
    small = apply(module, params, x, y)
    assert np.isfinite(small).all()
    np.testing.assert_allclose(small, enlarged, rtol=1e-5)


def test_lpips_refuses():
    module, params = lpips("alexnet")
    with pytest.raises(InputError, match="4 channels"):
        apply(module, params, jnp.zeros((1, 32, 32, 4)), jnp.zeros((1, 32, 32, 4)))
    with pytest.raises(InputError, match="must have the same"):
        apply(module, params, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(InputError, match="must be one of vgg16, alexnet"):
        load_lpips("squeeze")


def test_lpips_in_bfloat16():
    """The features are, the distance is float32 and close."""
    _, params = lpips("alexnet")
    half = LPIPS(LPIPSConfig("alexnet", "bfloat16"))
    x, y = pictures(1, 3, 32, 32, 3), pictures(2, 3, 32, 32, 3)
    assert all(f.dtype == jnp.bfloat16 for f in apply(half, params, x, method="features"))
    ours = apply(half, params, x, y)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours[:2], reference("lpips")["alexnet/32"][:2], rtol=0.02)
