"""Latents as small pictures without the decoder: the linear map that fits it best."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ldm_jax.conditions.images import averaged
from ldm_jax.data import to_uint8
from ldm_jax.pipeline import LatentDiffusion

EXAMPLES = 64


class Preview(NamedTuple):
    """A pixel for each position of the latents, [c] -> grey or RGB."""

    weight: Float[np.ndarray, "c channels"]
    bias: Float[np.ndarray, "channels"]
    error: float
    """Root mean square error on the latents that it was fitted to, of pixels in [-1, 1]."""

    def __call__(self, z: Float[np.ndarray, "b h w c"]) -> UInt8[np.ndarray, "b h w channels"]:
        """Pictures of the latents' own height and width."""
        # In numpy: it is called from within a computation.
        return to_uint8(z @ self.weight + self.bias)


def fit_preview(model: LatentDiffusion, key: Array) -> Preview:
    """Least squares over made-up latents, each of a colour of its own with noise on it, and their decoded pictures.

    Nothing is drawn for it, so that it costs one batch of the decoder, whatever the model is conditioned on.
    """
    a, b, c = jax.random.split(key, 3)
    h, w, channels = model.latent_shape
    colour = jax.random.normal(a, (EXAMPLES, 1, 1, channels))
    coarse = jax.image.resize(jax.random.normal(b, (EXAMPLES, 2, 2, channels)), (EXAMPLES, h, w, channels), "linear")
    z = 0.6 * colour + 0.6 * coarse + 0.5 * jax.random.normal(c, (EXAMPLES, h, w, channels))
    pixels = np.concatenate([np.asarray(model.decode(part)) for part in jnp.split(z, 8)])
    small = averaged(pixels, pixels.shape[1] // h).reshape(-1, pixels.shape[-1])
    known = np.concatenate([np.asarray(z).reshape(-1, channels), np.ones((len(small), 1))], axis=1)
    found = np.linalg.lstsq(known, small, rcond=None)[0].astype(np.float32)
    error = float(np.sqrt(np.square(known @ found - small).mean()))
    return Preview(found[:-1], found[-1], error)
