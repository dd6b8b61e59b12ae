"""How near images are to their originals: PSNR, SSIM, MS-SSIM, per example, on any number of channels."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ldm_jax.errors import InputError
from ldm_jax.metrics.checks import pictures

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""
Window = Literal["gaussian", "uniform"]


def psnr(
    x: Shaped[Array | np.ndarray, "b h w c"], y: Shaped[Array | np.ndarray, "b h w c"], *, data_range: float | int
) -> Float[Array, "b"]:
    """Peak signal-to-noise ratio [b] in dB: 10 log10(data_range^2 / mean squared error); inf for equal images.

    Images of any number type, computed in float32 at least. data_range: the distance of white from black: 255 for grey
    levels, 2 for [-1, 1].

    Raises:
      InputError: the shapes differ.
    """
    x, y = pictures("psnr", x, y, data_range)
    return 10.0 * jnp.log10(data_range**2 / jnp.square(x - y).mean(axis=(1, 2, 3)))


def ssim(
    x: Shaped[Array | np.ndarray, "b h w c"],
    y: Shaped[Array | np.ndarray, "b h w c"],
    *,
    data_range: float | int,
    window: Window = "gaussian",
) -> Float[Array, "b"]:
    """Structural similarity [b], at most 1 (Wang et al. 2004, IEEE TIP 13(4), equation 13), mean over the channels.

    window: "gaussian" is the paper's, 11x11 with sigma 1.5 (scikit-image's `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False`); "uniform" is scikit-image's default, 7x7 with sample covariances (n - 1).
    Means are over the places where the whole window lies inside the image. Images and data_range as in `psnr`.

    Raises:
      InputError: a side is shorter than the window, or the shapes differ.
    """
    if window not in get_args(Window):
        raise InputError(f"window: {window!r} must be one of {', '.join(get_args(Window))}")
    x, y = pictures("ssim", x, y, data_range)
    taps = _taps(window)
    _check_side(x.shape, len(taps), "ssim", f"its {window} window is {len(taps)}x{len(taps)}")
    similarity, _ = _similarity(x, y, taps, data_range, sample_covariance=window == "uniform")
    return similarity.mean(axis=-1)


def ms_ssim(
    x: Shaped[Array | np.ndarray, "b h w c"], y: Shaped[Array | np.ndarray, "b h w c"], *, data_range: float | int
) -> Float[Array, "b"]:
    """Multi-scale structural similarity [b] (Wang et al. 2003, equation 7): five scales, each 2x2 means of the last.

    Negative similarities count as 0, so that the powers exist; the product is taken per channel, then the mean. A side
    that is odd is made even by repeating its last line, as TensorFlow does. Images and data_range as in `psnr`.

    Raises:
      InputError: a side is under 161 px, where the window would not fit in the coarsest scale, or the shapes differ.
    """
    x, y = pictures("ms_ssim", x, y, data_range)
    taps = _taps("gaussian")
    smallest = (len(taps) - 1) * 2 ** (len(MS_WEIGHTS) - 1) + 1
    _check_side(x.shape, smallest, "ms_ssim", f"five scales of an {len(taps)}x{len(taps)} window need {smallest} px")
    product = jnp.ones((x.shape[0], x.shape[-1]), x.dtype)
    for scale, weight in enumerate(MS_WEIGHTS):
        if scale:
            x, y = _halved(x), _halved(y)
        similarity, contrast = _similarity(x, y, taps, data_range, sample_covariance=False)
        factor = similarity if scale == len(MS_WEIGHTS) - 1 else contrast
        product *= jnp.maximum(factor, 0.0) ** weight
    return product.mean(axis=-1)


def _taps(window: Window) -> np.ndarray:
    if window == "uniform":
        return np.full(7, 1 / 7)
    gaussian = np.exp(-(np.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    return gaussian / gaussian.sum()


def _check_side(shape: tuple[int, ...], least: int, metric: str, why: str) -> None:
    if min(shape[1:3]) < least:
        raise InputError(f"{metric}: images are {shape[1]}x{shape[2]}; {why}")


def _filtered(x: jax.Array, taps: np.ndarray) -> jax.Array:
    # Sums of shifted slices: in float32 everywhere, where a convolution would use an accelerator's short floats.
    for axis in (-3, -2):
        size = x.shape[axis] - len(taps) + 1
        x = sum(float(w) * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i, w in enumerate(taps))  # pyright: ignore
    return x


def _similarity(
    x: jax.Array, y: jax.Array, taps: np.ndarray, data_range: float | int, *, sample_covariance: bool
) -> tuple[jax.Array, jax.Array]:
    """The mean [b c] of the structural similarity, and that of its contrast-structure factor alone."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    n = len(taps) ** 2
    unbiased = n / (n - 1) if sample_covariance else 1.0
    # Variances don't depend on the origin, and near 0 their difference of squares loses fewer digits.
    origin = 0.5 * (x.mean(axis=(1, 2), keepdims=True) + y.mean(axis=(1, 2), keepdims=True))
    x0, y0 = x - origin, y - origin
    mean_x, mean_y, xx, yy, xy = _filtered(jnp.stack([x0, y0, x0 * x0, y0 * y0, x0 * y0]), taps)
    var_x, var_y, cov = (unbiased * d for d in (xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y))
    mean_x, mean_y = mean_x + origin, mean_y + origin
    contrast = (2.0 * cov + c2) / (var_x + var_y + c2)
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).mean(axis=(1, 2)), contrast.mean(axis=(1, 2))


def _halved(x: jax.Array) -> jax.Array:
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
