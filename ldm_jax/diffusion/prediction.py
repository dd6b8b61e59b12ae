"""What a denoiser's output means, and the conversions between the four parameterisations.

With z = alpha x0 + sigma eps:

    eps    the noise                                  Ho et al. 2020 (arXiv 2006.11239), eq. 14
    x0     the data
    v      alpha eps - sigma x0                       Salimans & Ho 2022 (arXiv 2202.00512), section 4
    flow   eps - x0, the velocity dz/dt of RectifiedFlow   Liu et al. 2022 (arXiv 2209.03003), eq. 1
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

Kind = Literal["eps", "x0", "v", "flow"]
KINDS: tuple[str, ...] = get_args(Kind)


class Estimate(NamedTuple):
    """A denoiser's guess of both parts of z = alpha x0 + sigma eps; each has z's shape."""

    x0: Float[Array, "*shape"]
    eps: Float[Array, "*shape"]


def expand(per_example: Float[Array, "*b"], like: Float[Array, "b ..."]) -> Float[Array, "..."]:
    """A scalar or [b] array with trailing axes added until it broadcasts against `like` [b ...]."""
    per_example = jnp.asarray(per_example, like.dtype)
    return per_example.reshape(per_example.shape + (1,) * (like.ndim - per_example.ndim))


def _divide(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """a / b, and 0 where b = 0: there the prediction says nothing about that part."""
    zero = b == 0
    return jnp.where(zero, 0.0, a / jnp.where(zero, 1.0, b))


def estimate(
    kind: Kind,
    output: Float[Array, "b ..."],
    z_t: Float[Array, "b ..."],
    alpha: Float[Array, "*b"],
    sigma: Float[Array, "*b"],
) -> Estimate:
    """The (x0, eps) that a network's `output` of the given kind implies at z_t.

    alpha, sigma: scalars or [b]. The result satisfies alpha x0 + sigma eps = z_t, except where a coefficient is 0 and
    the part it multiplies can't be seen in z_t: that part is then 0 (kind "eps" at alpha = 0, kind "x0" at sigma = 0).
    """
    alpha, sigma = expand(alpha, z_t), expand(sigma, z_t)
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
    raise ValueError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")


def target(
    kind: Kind,
    x0: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    alpha: Float[Array, "*b"],
    sigma: Float[Array, "*b"],
) -> Float[Array, "b ..."]:
    """What a network of the given kind should output for data x0 and noise eps; the inverse of `estimate`."""
    alpha, sigma = expand(alpha, x0), expand(sigma, x0)
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * eps - sigma * x0
    if kind == "flow":
        return eps - x0
    raise ValueError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
