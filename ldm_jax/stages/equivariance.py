"""Equivariance regularisation of latents (EQ-VAE, Kouzelis et al. 2025, arXiv 2502.09509, eq. 5).

A latent that is turned, mirrored or shrunk shall decode to the image treated likewise: latents become smooth, which a
denoiser learns more easily. The shrinking is by two, so that shapes are static; the rest is any symmetry of the square.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def shrink(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Both space axes halved by averaging."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def symmetry(x: Float[Array, "b h w c"], which: Int[Array, "b"]) -> Float[Array, "b h w c"]:
    """Each square image under one of the square's eight symmetries: bits for transposing and for two flips."""

    def chosen(bit: int, changed: Array, otherwise: Array) -> Array:
        return jnp.where(((which >> bit) & 1).reshape(-1, 1, 1, 1) == 1, changed, otherwise)

    x = chosen(0, x.swapaxes(1, 2), x)
    x = chosen(1, x[:, ::-1], x)
    return chosen(2, x[:, :, ::-1], x)


def transformed(
    z: Float[Array, "b lh lw lc"], x: Float[Array, "b h w c"], keys: Array
) -> tuple[Float[Array, "b lh2 lw2 lc"], Float[Array, "b h2 w2 c"]]:
    """Latents and images of side halved, under the same random symmetry of each example."""
    which = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 1), (), 0, 8))(keys)
    return symmetry(shrink(z), which), symmetry(shrink(x), which)
