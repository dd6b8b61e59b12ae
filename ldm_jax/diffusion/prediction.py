"""What a denoiser's output means, and the conversions between the parameterisations.

With z = alpha x0 + sigma eps:

    eps    the noise                                  Ho et al. 2020 (arXiv 2006.11239), eq. 14
    x0     the data
    v      alpha eps - sigma x0                       Salimans & Ho 2022 (arXiv 2202.00512), section 4
    flow   eps - x0, the velocity dz/dt of RectifiedFlow   Liu et al. 2022 (arXiv 2209.03003), eq. 1
    Preconditioning(sigma_data)                       Karras et al. 2022 (arXiv 2206.00364), eq. 7
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.precision import alike, checked, wide
from ldm_jax.errors import InputError

Kind = Literal["eps", "x0", "v", "flow"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """EDM's output: x0 = c_skip z / alpha + c_out output, with rho = sigma / alpha and s = sigma_data.

    c_skip = s^2 / (rho^2 + s^2), c_out = rho s / sqrt(rho^2 + s^2); the network's input is to be scaled by
    `input_scale`. Karras et al. 2022 (arXiv 2206.00364), eq. 7 and table 1. negated: c_out has the other sign, as in
    models whose output is like v (Stable Video Diffusion, CosXL).
    """

    sigma_data: float = 0.5
    negated: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_data < float("inf"):
            raise InputError(f"sigma_data: {self.sigma_data!r} must be a positive number")


AnyKind: TypeAlias = Kind | Preconditioning


class Estimate(NamedTuple):
    """A denoiser's guess of both parts of z = alpha x0 + sigma eps; each has z's shape."""

    x0: Float[Array, "*shape"]
    eps: Float[Array, "*shape"]


class LearnedEstimate(NamedTuple):
    """An `Estimate` with the variance that the network learned, for `samplers.ddpm(variance="learned")`.

    variance in [0, 1] interpolates log variance between the posterior's (0) and beta (1), Nichol & Dhariwal 2021
    (arXiv 2102.09672), eq. 15.
    """

    x0: Float[Array, "*shape"]
    eps: Float[Array, "*shape"]
    variance: Float[Array, "*shape"]


AnyEstimate: TypeAlias = Estimate | LearnedEstimate


def expand(per_example: Float[Array, "*b"], like: Float[Array, "b ..."]) -> Float[Array, "..."]:
    """A scalar or [b] array with trailing axes added until it broadcasts against `like` [b ...], of its type.

    Raises:
      InputError: `like` is not of floats, whose type a coefficient could take, or it has another number of examples.
    """
    checked("z", like)
    per_example = jnp.asarray(per_example).astype(like.dtype)
    if per_example.ndim and (per_example.ndim > like.ndim or per_example.shape[0] not in (1, like.shape[0])):
        raise InputError(
            f"t: {list(per_example.shape)} must be one number, or one for each of {like.shape[0]} examples"
        )
    return per_example.reshape(per_example.shape + (1,) * (like.ndim - per_example.ndim))


def _divide(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """a / b, and 0 where b = 0: there the prediction says nothing about that part."""
    zero = b == 0
    return jnp.where(zero, 0.0, a / jnp.where(zero, 1.0, b))


def _unknown(kind: object) -> InputError:
    return InputError(f"kind: {kind!r} is not one of {', '.join(KINDS)} or a Preconditioning")


def _skip_out(kind: Preconditioning, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    """c_skip / alpha and c_out, multiplied out so that alpha = 0 or sigma = 0 divide nothing by 0."""
    s = kind.sigma_data
    square = sigma**2 + (s * alpha) ** 2
    out = sigma * s / jnp.sqrt(square)
    return s**2 * alpha / square, -out if kind.negated else out


def input_scale(kind: AnyKind, alpha: Float[Array, "*b"], sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """What z is to be multiplied by before it enters the network: c_in of Karras et al. 2022, table 1, else 1."""
    alpha, sigma = wide("alpha", alpha), wide("sigma", sigma)
    if not isinstance(kind, Preconditioning):
        return jnp.ones_like(sigma)
    return 1.0 / jnp.sqrt(sigma**2 + (kind.sigma_data * alpha) ** 2)


def estimate(
    kind: AnyKind,
    output: Float[Array, "b ..."],
    z_t: Float[Array, "b ..."],
    alpha: Float[Array, "*b"],
    sigma: Float[Array, "*b"],
) -> Estimate:
    """The (x0, eps) that a network's `output` of the given kind implies at z_t.

    alpha, sigma: scalars or [b]. The result satisfies alpha x0 + sigma eps = z_t, except where a coefficient is 0 and
    the part it multiplies can't be seen in z_t: that part is then 0 (kind "eps" at alpha = 0, kind "x0" at sigma = 0).
    Computed in float32 at least; of z_t's type.

    Raises:
      InputError: output and z_t have different shapes, or are not of floats; an unknown kind.
    """
    alike(z_t=z_t, output=output)
    return Estimate(
        *(part.astype(z_t.dtype) for part in _estimate(kind, wide("output", output), wide("z_t", z_t), alpha, sigma))
    )


def _estimate(kind: AnyKind, output: Array, z_t: Array, alpha: Array, sigma: Array) -> Estimate:
    alpha, sigma = expand(alpha, z_t), expand(sigma, z_t)
    if isinstance(kind, Preconditioning):
        skip, out = _skip_out(kind, alpha, sigma)
        x0 = skip * z_t + out * output
        # (z - alpha x0) / sigma with x0 put in, which stays exact where sigma is small.
        square = sigma**2 + (kind.sigma_data * alpha) ** 2
        sign = -1.0 if kind.negated else 1.0
        return Estimate(x0, (sigma * z_t - sign * alpha * kind.sigma_data * jnp.sqrt(square) * output) / square)
    if kind == "eps":
        return Estimate(_divide(z_t - sigma * output, alpha), output)
    if kind == "x0":
        return Estimate(output, _divide(z_t - alpha * output, sigma))
    if kind == "v":
        norm = alpha**2 + sigma**2
        return Estimate((alpha * z_t - sigma * output) / norm, (sigma * z_t + alpha * output) / norm)
    if kind == "flow":
        norm = alpha + sigma
        return Estimate((z_t - sigma * output) / norm, (z_t + alpha * output) / norm)
    raise _unknown(kind)


def target(
    kind: AnyKind,
    x0: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    alpha: Float[Array, "*b"],
    sigma: Float[Array, "*b"],
) -> Float[Array, "b ..."]:
    """What a network of the given kind should output for data x0 and noise eps; the inverse of `estimate`.

    Computed in float32 at least; of x0's type.

    Raises:
      InputError: x0 and eps have different shapes, or are not of floats; an unknown kind.
    """
    alike(x0=x0, eps=eps)
    return _target(kind, wide("x0", x0), wide("eps", eps), alpha, sigma).astype(x0.dtype)


def _target(kind: AnyKind, x0: Array, eps: Array, alpha: Array, sigma: Array) -> Array:
    alpha, sigma = expand(alpha, x0), expand(sigma, x0)
    if isinstance(kind, Preconditioning):
        # (x0 - c_skip z / alpha) / c_out with z put in: nothing is divided by sigma.
        s = kind.sigma_data
        value = (sigma * x0 - s**2 * alpha * eps) / (s * jnp.sqrt(sigma**2 + (s * alpha) ** 2))
        return -value if kind.negated else value
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * eps - sigma * x0
    if kind == "flow":
        return eps - x0
    raise _unknown(kind)


def convert(
    source: AnyKind,
    destination: AnyKind,
    output: Float[Array, "b ..."],
    z_t: Float[Array, "b ..."],
    alpha: Float[Array, "*b"],
    sigma: Float[Array, "*b"],
) -> Float[Array, "b ..."]:
    """A network's output of one kind as the output that a network of another kind would give at the same z_t."""
    alike(z_t=z_t, output=output)
    x0, eps = _estimate(source, wide("output", output), wide("z_t", z_t), alpha, sigma)
    return _target(destination, x0, eps, alpha, sigma).astype(z_t.dtype)


def split_learned(output: Float[Array, "b ... twice_c"]) -> tuple[Float[Array, "b ... c"], Float[Array, "b ... c"]]:
    """The prediction and the variance's interpolation in [0, 1], from a network with twice z's channels (DiT, ADM).

    Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 15; the network's second half lies in [-1, 1] (guided-diffusion).

    Raises:
      InputError: an odd number of channels, or no floats.
    """
    checked("output", output)
    if output.shape[-1] % 2:
        raise InputError(f"output: {output.shape[-1]} channels must be an even number, half of them a variance")
    prediction, raw = jnp.split(output, 2, axis=-1)
    return prediction, 0.5 * (raw + 1.0)


def clip_x0(
    estimate: AnyEstimate,
    z_t: Float[Array, "b ..."],
    alpha: Float[Array, "*b"],
    sigma: Float[Array, "*b"],
    limit: float = 1.0,
    percentile: float | None = None,
    maximum: float = float("inf"),
    consistent: bool = True,
) -> AnyEstimate:
    """The estimate with x0 kept within [-limit, limit], or thresholded dynamically; for pixels, not for latents.

    percentile (0.995, say): each example's x0 is clipped to that quantile s of |x0| and divided by s, where s lies in
    [limit, maximum]: Saharia et al. 2022 (arXiv 2205.11487), section 2.3. consistent: eps follows x0 so that
    alpha x0 + sigma eps = z_t still holds; otherwise eps stays as the network predicted it.

    Raises:
      InputError: limit, percentile or maximum out of range; shapes that differ; no floats.
    """
    if not 0.0 < limit <= maximum or (percentile is not None and not 0.0 < percentile <= 1.0):
        raise InputError(
            f"limit, maximum, percentile: {limit}, {maximum}, {percentile} must be 0 < limit <= maximum, (0, 1]"
        )
    alike(x0=estimate.x0, z_t=z_t)
    dtype, x0, z_t = estimate.x0.dtype, wide("x0", estimate.x0), wide("z_t", z_t)
    if percentile is None:
        x0 = jnp.clip(x0, -limit, limit)
    else:
        flat = jnp.abs(x0.reshape(x0.shape[0], -1))
        s = expand(jnp.clip(jnp.quantile(flat, percentile, axis=1), limit, maximum), x0)
        x0 = jnp.clip(x0, -s, s) / s
    if not consistent:
        return estimate._replace(x0=x0.astype(dtype))
    eps = _divide(z_t - expand(alpha, z_t) * x0, expand(sigma, z_t))
    return estimate._replace(x0=x0.astype(dtype), eps=eps.astype(dtype))
