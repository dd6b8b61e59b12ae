from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.errors import InputError
from ldm_jax.metrics import ms_ssim, psnr, ssim
from tests.conftest import ROOT
from tests.metrics.inputs import image_pairs

METRICS = {
    name: jax.jit(metric, static_argnames="data_range")
    for name, metric in {
        "psnr": psnr,
        "ssim_gaussian": ssim,
        "ssim_uniform": partial(ssim, window="uniform"),
        "ms_ssim": ms_ssim,
    }.items()
}
SMALL = ("psnr", "ssim_gaussian", "ssim_uniform")


@pytest.fixture(scope="module")
def published():
    with np.load(ROOT / "tests" / "reference" / "metrics.npz") as file:
        return dict(file)


def pairs(*shape):
    return tuple(jnp.asarray(x, jnp.float32) for x in image_pairs(shape))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_equal_to_scikit_image(name, channels, published):
    x, y = pairs(4, 24, 31, channels)
    ours = METRICS[name](x, y, data_range=255)
    np.testing.assert_allclose(ours, published[f"{name}_{channels}"], atol=1e-4)
    # In another range of values it is the same number.
    scaled = METRICS[name](x / 127.5 - 1.0, y / 127.5 - 1.0, data_range=2)
    if name == "psnr":
        np.testing.assert_allclose(scaled, ours, atol=1e-4)
    else:
        # SSIM's luminance term depends on where 0 is, so only scaling is free.
        np.testing.assert_allclose(METRICS[name](x / 255, y / 255, data_range=1), ours, atol=1e-4)
        assert np.abs(np.asarray(scaled - ours)).max() > 1e-3


def test_equal_to_pytorch_msssim(published):
    x, y = pairs(3, 176, 192, 3)
    np.testing.assert_allclose(METRICS["ms_ssim"](x, y, data_range=255), published["ms_ssim"], atol=1e-4)


def test_equal_images_are_perfect():
    x, y = pairs(2, 161, 163, 1)
    assert np.isposinf(np.asarray(psnr(x, x, data_range=255))).all()
    np.testing.assert_allclose(METRICS["ssim_gaussian"](x, x, data_range=255), 1.0, atol=1e-6)
    # Odd sides, at every scale.
    np.testing.assert_allclose(METRICS["ms_ssim"](x, x, data_range=255), 1.0, atol=1e-6)
    assert (np.asarray(METRICS["ms_ssim"](x, y, data_range=255)) < 1.0).all()


def test_each_example_has_its_own_number():
    x, y = pairs(3, 20, 20, 3)
    for metric in (METRICS[name] for name in SMALL):
        whole = metric(x, y, data_range=255)
        assert whole.shape == (3,)
        np.testing.assert_allclose(whole[1:2], metric(x[1:2], y[1:2], data_range=255), rtol=1e-5)
        assert (np.diff(whole) < 0).all(), "more noise, less similar"


def test_gradients_point_to_the_original():
    x, y = pairs(1, 16, 16, 1)

    @jax.jit
    def similarity(z):
        return ssim(x, z, data_range=255).sum()

    assert float(similarity(y + 100 * jax.grad(similarity)(y))) > float(similarity(y))


def test_images_that_are_too_small():
    x, y = pairs(1, 160, 200, 1)
    with pytest.raises(InputError, match=r"ms_ssim: images are 160x200; .* need 161 px"):
        ms_ssim(x, y, data_range=255)
    with pytest.raises(InputError, match="ssim: images are 8x8; its gaussian window is 11x11"):
        ssim(x[:, :8, :8], y[:, :8, :8], data_range=255)
    assert METRICS["ssim_uniform"](x[:, :8, :8], y[:, :8, :8], data_range=255).shape == (1,)
