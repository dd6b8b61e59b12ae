"""A schedule by its values at given times."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.precision import wide_times

Times = Float[Array, "*b"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Knots:
    """A schedule known at given times only, interpolated in between: what another library's table of sigmas becomes.

    times [n] ascend; alphas, sigmas, timesteps [n] are the values there. A pytree, so that one compilation serves every
    table of the same length. Between knots alpha and sigma are linear in t.
    """

    times: Float[Array, "n"]
    alphas: Float[Array, "n"]
    sigmas: Float[Array, "n"]
    timesteps: Float[Array, "n"]

    def alpha(self, t: Times) -> Times:
        return jnp.interp(wide_times(t), self.times, self.alphas)

    def sigma(self, t: Times) -> Times:
        return jnp.interp(wide_times(t), self.times, self.sigmas)

    def time(self, logsnr: Times) -> Times:
        # The first knot may be clean, at logsnr = +inf, where interpolation has nothing to hold on to.
        ratio = jnp.maximum(self.sigmas, jnp.finfo(self.sigmas.dtype).tiny ** 0.5) / self.alphas
        return jnp.interp(-0.5 * wide_times(logsnr), jnp.log(ratio), self.times)

    def timestep(self, t: Times) -> Times:
        return jnp.interp(wide_times(t), self.times, self.timesteps)
