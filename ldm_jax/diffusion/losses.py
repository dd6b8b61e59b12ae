"""Training losses, one number an example [b]: a distance, times a weight that depends on the noise level.

A weight is known by what it does to the error of one prediction; `weight` translates it to the prediction in use. At
fixed z_t the errors of all predictions are multiples of the error of x0, and those factors are in `_factor`.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.precision import alike, checked, wide
from ldm_jax.diffusion.prediction import AnyKind, LearnedEstimate, Preconditioning, expand
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.errors import InputError

Distance = Literal["squared", "l1", "huber"]
Weighting = Literal["simple", "min_snr", "soft_min_snr", "p2", "edm", "v", "sigmoid"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


def mean_example(values: Float[Array, "b ..."]) -> Float[Array, "b"]:
    """The mean over all axes but the first, in float32 at least."""
    values = wide("values", values)
    return values.reshape(values.shape[0], -1).mean(axis=1)


def distance(
    kind: Distance, output: Float[Array, "b ..."], target: Float[Array, "b ..."], delta: float = 1.0
) -> Float[Array, "b"]:
    """The mean distance of each example: (a - b)^2, |a - b|, or the smooth sqrt((a - b)^2 + delta^2) - delta.

    The last is the pseudo-Huber loss of Song & Dhariwal 2023 (arXiv 2310.14189), section 3.3, element by element.

    Raises:
      InputError: shapes that differ, no floats, an unknown kind, or a delta that is not positive.
    """
    alike(output=output, target=target)
    error = wide("output", output) - wide("target", target)
    if kind == "squared":
        return mean_example(error**2)
    if kind == "l1":
        return mean_example(jnp.abs(error))
    if kind == "huber":
        if not 0.0 < delta < float("inf"):
            raise InputError(f"delta: {delta!r} must be a positive number")
        # The difference of the root and delta, without its cancellation for small errors.
        return mean_example(error**2 / (jnp.sqrt(error**2 + delta**2) + delta))
    raise InputError(f"kind: {kind!r} is not one of {', '.join(get_args(Distance))}")


def _factor(kind: AnyKind, alpha: Array, sigma: Array) -> Array:
    """sigma^2 times the squared error of `kind` for a unit error of x0; finite at both ends."""
    if isinstance(kind, Preconditioning):
        return (sigma**2 + (kind.sigma_data * alpha) ** 2) / kind.sigma_data**2
    factors = {
        "eps": alpha**2,
        "x0": sigma**2,
        "v": (alpha**2 + sigma**2) ** 2,
        "flow": (alpha + sigma) ** 2,
    }
    if kind not in factors:
        raise InputError(f"kind: {kind!r} is not one of {', '.join(factors)} or a Preconditioning")
    return factors[kind]


def weight(
    name: Weighting,
    kind: AnyKind,
    alpha: Float[Array, "*b"],
    sigma: Float[Array, "*b"],
    *,
    gamma: float | None = None,
    k: float = 1.0,
    sigma_data: float = 0.5,
    bias: float = -3.0,
    dlogsnr_dt: Float[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """The factor on the squared error of a network of `kind` at noise level (alpha, sigma), of any shape.

    With snr = alpha^2 / sigma^2, and gamma = 5 by default, or 1 for p2, as in the papers:

    simple        1, whatever the kind
    min_snr       min(snr, gamma) on x0's error: Hang et al. 2023 (arXiv 2303.09556), section 3.4
    soft_min_snr  gamma snr / (snr + gamma) on x0's error: Crowson et al. 2024 (arXiv 2401.11605)
    p2            1 / (k + snr)^gamma on eps' error: Choi et al. 2022 (arXiv 2204.00227), eq. 8
    edm           (rho^2 + s^2) / (rho s)^2 on x0's error, rho = sigma / alpha, s = sigma_data: Karras et al. 2022
                  (arXiv 2206.00364), table 1
    v             1 on v's error: Salimans & Ho 2022 (arXiv 2202.00512), section 4, "SNR+1"
    sigmoid       -dlogsnr/dt / 2 sigmoid(bias - logsnr) on eps' error: Kingma & Gao 2023 (arXiv 2303.00848), table 1;
                  SiD2, Hoogeboom et al. 2024 (arXiv 2410.19324), "sigmoid loss". Needs dlogsnr_dt at the times, see
                  `dlogsnr`; left out, its factor is 1

    Where the kind's error says nothing about x0 (eps at alpha = 0, x0 at sigma = 0) the weight is that limit or 0.

    Raises:
      InputError: an unknown name or kind, a sigma_data that is not positive, no floats.
    """
    if not 0.0 < sigma_data < float("inf"):
        raise InputError(f"sigma_data: {sigma_data!r} must be a positive number")
    alpha, sigma = wide("alpha", alpha), wide("sigma", sigma)
    a2, s2 = alpha**2, sigma**2
    if gamma is None:
        gamma = 1.0 if name == "p2" else 5.0
    if name == "simple":
        return jnp.ones_like(a2)
    if name == "min_snr":
        on_x0 = jnp.minimum(a2, gamma * s2)
    elif name == "soft_min_snr":
        on_x0 = gamma * a2 * s2 / (a2 + gamma * s2)
    elif name == "p2":
        on_x0 = a2 * (s2 / (k * s2 + a2)) ** gamma
    elif name == "edm":
        on_x0 = (s2 + sigma_data**2 * a2) / sigma_data**2
    elif name == "v":
        on_x0 = (a2 + s2) ** 2
    elif name == "sigmoid":
        on_x0 = a2 * jax.nn.sigmoid(bias + jnp.log(s2) - jnp.log(a2))
        if dlogsnr_dt is not None:
            # Infinite at the ends, where on_x0 is 0 and so is the limit of their product.
            slope = wide("dlogsnr_dt", dlogsnr_dt)
            on_x0 = jnp.where(jnp.isfinite(slope), -0.5 * jnp.where(jnp.isfinite(slope), slope, 0.0) * on_x0, 0.0)
    else:
        raise InputError(f"name: {name!r} is not one of {', '.join(WEIGHTINGS)}")
    own = _factor(kind, alpha, sigma)
    # min_snr, soft_min_snr, p2 and sigmoid all vanish like alpha^2, so eps' weight has a limit at alpha = 0.
    tiny = jnp.finfo(jnp.asarray(own).dtype).tiny
    safe = jnp.where(own > tiny, own, 1.0)
    return jnp.where(own > tiny, on_x0 / safe, 0.0)


def dlogsnr(schedule: Schedule, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """d logsnr / dt, negative; infinite where alpha or sigma is 0."""

    def log_ratio(t: Array) -> Array:
        return 2.0 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))

    return jax.jvp(log_ratio, (t,), (jnp.ones_like(t),))[1]


def hybrid_vlb(
    estimate: LearnedEstimate,
    x0: Float[Array, "b ..."],
    z_t: Float[Array, "b ..."],
    schedule: Schedule,
    t: Float[Array, "b"],
    s: Float[Array, "b"],
    decoder: Literal["gaussian", "discretized"] = "gaussian",
) -> Float[Array, "b"]:
    """The variational bound's term for the step from t to s, in bits a dimension, for the learned variance's sake.

    Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 4 to 6 and 15; added to the simple loss with a small factor (eq. 16,
    0.001; guided-diffusion: steps / 1000). The mean takes no gradient from it. At s = 0 (sigma = 0) the term is the
    decoder's -log p(x0 | z_t): of pixels in steps of 2 / 255 (discretized, Ho et al. 2020, eq. 13), or of a density.
    Where s is not below t there is no step, and the term is 0.

    Raises:
      InputError: shapes that differ, no floats, an unknown decoder.
    """
    alike(x0=x0, z_t=z_t, estimate=estimate.x0, variance=estimate.variance)
    x0, z_t = wide("x0", x0), wide("z_t", z_t)
    estimate = LearnedEstimate(*(wide("estimate", part) for part in estimate))
    alpha_t, sigma_t = expand(schedule.alpha(t), x0), expand(schedule.sigma(t), x0)
    alpha_s, sigma_s = expand(schedule.alpha(s), x0), expand(schedule.sigma(s), x0)
    keep = alpha_t / alpha_s
    added = sigma_t**2 - (keep * sigma_s) ** 2
    none = added <= 0.0
    added, square = jnp.where(none, 1.0, added), jnp.where(none, 1.0, sigma_t**2)
    on_z, on_x0 = keep * sigma_s**2 / square, alpha_s * added / square
    true_mean = on_z * z_t + on_x0 * x0
    mean = on_z * z_t + on_x0 * jax.lax.stop_gradient(estimate.x0)
    last = sigma_s == 0
    large = jnp.log(added)
    small = jnp.where(last, large, jnp.log(jnp.where(last, 1.0, added * sigma_s**2 / square)))
    log_variance = estimate.variance * large + (1.0 - estimate.variance) * small
    ratio = jnp.exp(-log_variance)
    kl = 0.5 * (log_variance - small - 1.0 + jnp.exp(small - log_variance) + (true_mean - mean) ** 2 * ratio)
    if decoder == "gaussian":
        ending = 0.5 * (jnp.log(2.0 * jnp.pi) + log_variance + (x0 - mean) ** 2 * ratio)
    elif decoder == "discretized":
        ending = -_discretized(x0, mean, 0.5 * log_variance)
    else:
        raise InputError(f"decoder: {decoder!r} is not one of gaussian, discretized")
    return mean_example(jnp.where(none, 0.0, jnp.where(last, ending, kl))) / math.log(2.0)


def _discretized(x0: Array, mean: Array, log_scale: Array) -> Array:
    """log of a Gaussian's mass in the bin of x0 (width 2 / 255, open at -1 and 1)."""
    scale = jnp.exp(-log_scale)
    upper = jax.scipy.stats.norm.logcdf(scale * (x0 - mean + 1.0 / 255.0))
    lower = jax.scipy.stats.norm.logcdf(scale * (x0 - mean - 1.0 / 255.0))
    above = jax.scipy.stats.norm.logcdf(-scale * (x0 - mean - 1.0 / 255.0))
    inside = jnp.log(jnp.maximum(jnp.exp(upper) - jnp.exp(lower), 1e-12))
    return jnp.where(x0 < -0.999, upper, jnp.where(x0 > 0.999, above, inside))


def _draws(keys: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    def draw(key: Array) -> Array:
        return jax.random.normal(key, shape, dtype)

    return jax.vmap(draw)(keys)


def noise_offset(keys: Array, noise: Float[Array, "b ... c"], strength: float = 0.1) -> Float[Array, "b ... c"]:
    """The noise plus strength times one normal number for each example and channel; keys [b].

    It lets a model trained with alpha(1) > 0 change an image's mean: Guttenberg 2023, "Diffusion with offset noise".

    Raises:
      InputError: the noise is not of floats, or has no axis of channels.
    """
    checked("noise", noise)
    if noise.ndim < 2:
        raise InputError(f"noise: {list(noise.shape)} must be [b ... c]")
    shape = (1,) * (noise.ndim - 2) + (noise.shape[-1],)
    return noise + strength * _draws(keys, shape, noise.dtype)


def input_perturbation(keys: Array, noise: Float[Array, "b ..."], gamma: float = 0.1) -> Float[Array, "b ..."]:
    """The noise to make z_t of, eps + gamma n; the target keeps eps. Ning et al. 2023 (arXiv 2301.11706)."""
    checked("noise", noise)
    return noise + gamma * _draws(keys, noise.shape[1:], noise.dtype)
