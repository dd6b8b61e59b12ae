"""Data whose denoiser is known: a Gaussian and a mixture of two, in the plane; both in one batch, half and half."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.prediction import Estimate

MEAN = np.array([0.6, -0.3])
COVARIANCE = np.array([[0.5, 0.2], [0.2, 0.3]])
CENTRES = np.array([[0.8, 0.5], [-0.7, -0.4]])
SHARES = np.array([0.6, 0.4])
SPREAD = 0.6


def gaussian(schedule):
    """denoise for N(MEAN, COVARIANCE), z [b, 2]."""

    def denoise(z, t):
        alpha, sigma = schedule.alpha(t).astype(z.dtype), schedule.sigma(t).astype(z.dtype)
        mean, covariance = jnp.asarray(MEAN, z.dtype), jnp.asarray(COVARIANCE, z.dtype)
        # Of a 2 x 2 matrix, by hand: a solver of LAPACK's would be slow to compile.
        a = alpha**2 * covariance + sigma**2 * jnp.eye(2, dtype=z.dtype)
        inverse = jnp.array([[a[1, 1], -a[0, 1]], [-a[1, 0], a[0, 0]]]) / (a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0])
        centred = (z - (alpha * mean)[None]) @ inverse
        return Estimate(mean[None] + alpha * centred @ covariance, sigma * centred)

    return denoise


def mixture(schedule):
    """denoise for the mixture of two Gaussians of standard deviation SPREAD at CENTRES, z [b, 2]."""

    def denoise(z, t):
        alpha, sigma = schedule.alpha(t).astype(z.dtype), schedule.sigma(t).astype(z.dtype)
        centres, shares = jnp.asarray(CENTRES, z.dtype), jnp.asarray(SHARES, z.dtype)
        square = (alpha * SPREAD) ** 2 + sigma**2
        away = z[:, None, :] - alpha * centres[None]
        weights = jax.nn.softmax(jnp.log(shares)[None] - 0.5 * (away**2).sum(-1) / square, axis=1)
        centred = (weights[..., None] * away).sum(1) / square
        return Estimate((weights[..., None] * centres[None]).sum(1) + alpha * SPREAD**2 * centred, sigma * centred)

    return denoise


def both(schedule):
    """denoise for a batch whose first half is of the Gaussian and whose second half is of the mixture."""

    def denoise(z, t):
        half = z.shape[0] // 2
        first, second = gaussian(schedule)(z[:half], t), mixture(schedule)(z[half:], t)
        return Estimate(*(jnp.concatenate(parts) for parts in zip(first, second, strict=True)))

    return denoise


def mixture_moments():
    mean = SHARES @ CENTRES
    covariance = SPREAD**2 * np.eye(2) + (SHARES[:, None] * (CENTRES - mean)).T @ (CENTRES - mean)
    return mean, covariance


def uniform_in_logsnr(schedule, steps, start=0.75, end=0.15):
    """[steps + 1] times with equal steps of log(alpha / sigma)."""
    ends = [float(jnp.log(schedule.alpha(jnp.asarray(t)) / schedule.sigma(jnp.asarray(t)))) for t in (start, end)]
    return schedule.time(2.0 * jnp.linspace(*ends, steps + 1))
