"""Average velocities of a flow: what crosses an interval of time in one evaluation, and how it is learnt.

A flow z_t = (1 - t) x0 + t eps moves with the velocity v(z_t, t). Its average over [t - h, t] along the way through z_t
is u(z_t, t, h), so that z_{t-h} = z_t - h u(z_t, t, h) whatever h: one evaluation for one step. u(z, t, 0) is v.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.losses import mean_example
from ldm_jax.diffusion.precision import alike, wide
from ldm_jax.diffusion.prediction import expand
from ldm_jax.errors import InputError


@runtime_checkable
class Average(Protocol):
    """A network of average velocities."""

    def __call__(
        self, z: Float[Array, "b ..."], t: Float[Array, "b"], h: Float[Array, "b"], /
    ) -> Float[Array, "b ..."]:
        """u of the flow through z [b ...] at t [b], over [t - h, t]."""
        ...


def mean_flow(
    network: Average,
    z: Float[Array, "b ..."],
    t: Float[Array, "b"],
    h: Float[Array, "b"],
    velocity: Float[Array, "b ..."],
    tangent: Float[Array, "b ..."] | None = None,
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """(u, what u ought to be, without gradient): v - h du/dt, with the end t - h of the interval held fixed.

    Geng et al. 2025 (arXiv 2505.13447), eq. 6, 8 and 11; du/dt = v du/dz + du/dt + du/dh is one `jax.jvp`.
    velocity: v at z, or eps - x0, of which v is the mean. tangent: the velocity along which u is differentiated, the
    same where None; the network's own u(z, t, 0) makes it MeanFlow as improved by Geng et al. 2025 (arXiv 2512.02012).

    Raises:
      InputError: shapes that differ, or no floats.
    """
    tangent = velocity if tangent is None else tangent
    alike(z=z, velocity=velocity, tangent=tangent)
    ones = jnp.ones_like(t)
    u, change = jax.jvp(network, (z, t, h), (jax.lax.stop_gradient(tangent).astype(z.dtype), ones, ones))
    target = wide("velocity", velocity) - expand(h, u) * change
    return u, jax.lax.stop_gradient(target)


def shortcut(
    network: Average, z: Float[Array, "b ..."], t: Float[Array, "b"], h: Float[Array, "b"], least: float = 0.0
) -> Float[Array, "b ..."]:
    """What u(z, t, h) ought to be: the average of two steps of half the length, without gradient.

    Frans et al. 2024 (arXiv 2410.12557), eq. 5. least: a half that is not longer counts as no interval, so that the
    shortest are learnt from the velocity itself.
    """
    half = 0.5 * h
    asked = jnp.where(half > least, half, 0.0)
    first = network(z, t, asked)
    second = network(z - (expand(half, z) * first).astype(z.dtype), t - half, asked)
    return jax.lax.stop_gradient(0.5 * (first + second))


def adaptive(
    found: Float[Array, "b ..."], wanted: Float[Array, "b ..."], power: float = 1.0, floor: float = 1e-2
) -> Float[Array, "b"]:
    """The mean squared error [b] of each example, with the gradient of S / sg(S + floor)^power, S the sum of squares.

    MeanFlow's loss (arXiv 2505.13447, eq. 22, with the constants of its reference implementation). Its own value, near
    1 whatever the error where power is 1, would tell nothing; the value here does. power 0: the plain squared error.

    Raises:
      InputError: shapes that differ, no floats, a negative power, or a floor that is not positive.
    """
    alike(found=found, wanted=wanted)
    if power < 0.0 or not 0.0 < floor < float("inf"):
        raise InputError(f"power ({power}) must be at least 0, floor ({floor}) positive and finite")
    error = wide("found", found) - wide("wanted", wanted)
    mean = mean_example(error**2)
    total = mean * (error.size // error.shape[0])
    weighted = total / jax.lax.stop_gradient(total + floor) ** power
    return weighted + jax.lax.stop_gradient(mean - weighted)
