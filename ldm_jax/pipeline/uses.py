"""What a model is used for: methods that turn images into a task's arrays, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ldm_jax.conditions import Condition, in_range, mask_of
from ldm_jax.diffusion import editing
from ldm_jax.errors import InputError
from ldm_jax.metrics.rounding import to_uint8
from ldm_jax.tasks import Edit, Inpaint, Invert


class Uses:
    """The uses of a `LatentDiffusion`; sampling options are those of its `sample`."""

    encode: Callable[..., Array]
    decode: Callable[..., Array]
    sample: Callable[..., Any]
    _shown: Callable[..., Array]
    autoencoder: Any
    shape: tuple[int, ...]
    conditions: tuple[Condition, ...]

    def edit(self, key: Array, images: Any, strength: Any = 0.8, **sampling: Any) -> UInt8[np.ndarray, "n h w c"]:
        """Image to image: `strength` of the way to noise and back (SDEdit), towards labels or prompts.

        images: [n h w c], uint8 or in [-1, 1]. strength 0 is the reconstruction, 1 what sampling from noise gives.
        """
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0.0 <= strength <= 1.0:
            raise InputError(f"strength: {strength} must be between 0 and 1")
        z = self.encode(images)
        if strength == 0:
            return np.asarray(self._shown(z))
        return self.sample(key, num=len(z), task=Edit(float(strength)), arrays={"known": z}, **sampling)

    def inpaint(
        self,
        key: Array,
        images: Any,
        masks: Any,
        *,
        paste: bool = False,
        jump: int = 0,
        resample: int = 1,
        **sampling: Any,
    ) -> UInt8[np.ndarray, "n h w c"]:
        """Paints where `masks` are: bool or 0/1, or uint8 of 0/255, [n h w], [n h w 1] or [h w] for all images.

        What is outside goes through the autoencoder; paste puts the images' own pixels back there. A model that was
        trained for it is told image and mask; with any other, what is known is put back at every step. jump, resample:
        RePaint's walk then, 0 and 1 for replacement alone (`ldm_jax.tasks.Inpaint`).
        """
        pixels = in_range("images", images)
        mask = mask_of(masks, pixels.shape)
        if any("mask" in condition.asks for condition in self.conditions):
            drawn = self.sample(key, num=len(pixels), image=pixels, mask=mask, **sampling)
            return pasted(drawn, pixels, mask) if paste else drawn
        # A latent position is painted where any of its pixels is.
        f = self.autoencoder.config.factor
        n, h, w, _ = mask.shape
        blocks = mask.reshape(n, h // f, f, w // f, f, 1).max(axis=(2, 4)) if f > 1 else mask
        arrays = {"known": self.encode(pixels), "mask": jnp.asarray(blocks)}
        drawn = self.sample(key, num=len(pixels), task=Inpaint(jump, resample), arrays=arrays, **sampling)
        return pasted(drawn, pixels, mask) if paste else drawn

    def invert(self, images: Any, refine: int = 3, **sampling: Any) -> Float[np.ndarray, "n ... c"]:
        """The initial noise [n *space c] from which `sample(latents=..., sampler="ddim")` leads back to the images.

        Standard normal where the model fits; the sampling options, guidance included, must be those of the way back.
        """
        z, key = self.encode(images), jax.random.key(0)
        options = {"guidance": 1.0, **sampling}
        inverted = self.sample(key, num=len(z), task=Invert(refine), arrays={"known": z}, output="latents", **options)
        return inverted

    def interpolate(self, key: Array, a: Any, b: Any, num: int = 8, **sampling: Any) -> UInt8[np.ndarray, "num h w c"]:
        """num images between noises a and b [*space c], ends included, on the sphere (`diffusion.editing.slerp`).

        Noises are standard normal, such as rows of `invert`'s.
        """
        if type(num) is not int or num < 2:
            raise InputError(f"num: {num} must be at least 2")
        first, last = (jnp.repeat(jnp.asarray(end, jnp.float32)[None], num, axis=0) for end in (a, b))
        between = editing.slerp(first, last, jnp.linspace(0.0, 1.0, num))
        return self.sample(key, num=num, latents=np.asarray(between), **sampling)

    def upscale(self, key: Array, images: Any, **sampling: Any) -> UInt8[np.ndarray, "n h w c"]:
        """Enlarges images with a model that was trained for it; its own condition says how large they must be."""
        return self.sample(key, num=len(images), image=images, **sampling)


def pasted(drawn: UInt8[np.ndarray, "n h w c"], pixels: Any, mask: Any) -> UInt8[np.ndarray, "n h w c"]:
    """What was drawn where mask [n h w 1] is 1, the images' own pixels [n h w c] in [-1, 1] elsewhere."""
    return np.where(mask > 0, drawn, np.asarray(to_uint8(jnp.asarray(pixels))))
