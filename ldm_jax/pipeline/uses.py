"""What a model is used for: methods that turn images into a task's arrays, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from scipy import ndimage

from ldm_jax.conditions import Condition, MaskedLatents, NoisedImage, in_range, mask_of
from ldm_jax.diffusion import editing, samplers
from ldm_jax.errors import InputError
from ldm_jax.metrics.rounding import to_uint8
from ldm_jax.pipeline.compiled import initial_noise
from ldm_jax.tasks import Edit, Inpaint, Invert


class Uses:
    """The uses of a `LatentDiffusion`; sampling options are those of its `sample`, which says what they give.

    That is uint8 [n h w c], or with output="latents" float32.
    """

    encode: Callable[..., Array]
    decode: Callable[..., Array]
    sample: Callable[..., Any]
    autoencoder: Any
    shape: tuple[int, ...]
    latent_shape: Any
    conditions: tuple[Condition, ...]
    _shown: Callable[..., Array]

    @property
    def paints(self) -> bool:
        """Whether it was trained to paint within images, and draws nothing else."""
        return any({"mask", "masked"} & set(condition.asks) for condition in self.conditions)

    @property
    def enlarges(self) -> bool:
        """Whether it was trained to enlarge images, and draws nothing else."""
        return not self.paints and any("image" in condition.asks for condition in self.conditions)

    def noise(self, key: Array, num: int = 1, first: int = 0) -> Float[np.ndarray, "num ... c"]:
        """The initial noise [num *space c] that `sample(key, num=num, first=first)` begins with, standard normal."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(num))
        return np.asarray(initial_noise(keys, self.latent_shape))

    def edit(self, key: Array, images: Any, strength: Any = 0.8, **sampling: Any) -> Any:
        """Image to image: `strength` of the way to noise and back (SDEdit), towards labels or prompts.

        images: [n h w c], uint8 or in [-1, 1]. strength 0 is the reconstruction, 1 what sampling from noise gives.
        """
        _check_strength(strength)
        z = self.encode(images)
        if strength == 0:
            return np.asarray(self._shown(z))
        task, arrays = Edit(float(strength)), {"known": z}
        return self.sample(key, num=len(z), task=task, arrays=arrays, **self._size(images), **sampling)

    def _size(self, images: Any) -> dict[str, int]:
        """height and width, where the images' are not the model's own."""
        shape = np.shape(images)[1:]
        return {} if shape == self.shape or len(shape) != 3 else {"height": shape[0], "width": shape[1]}

    def _told_masks(self) -> bool:
        return any(isinstance(condition, MaskedLatents) for condition in self.conditions)

    def inpaint(
        self,
        key: Array,
        images: Any,
        masks: Any,
        *,
        paste: bool = False,
        jump: int = 0,
        resample: int = 1,
        strength: Any = 1.0,
        **sampling: Any,
    ) -> Any:
        """Paints where `masks` are: bool or 0/1, or uint8 of 0/255, [n h w], [n h w 1] or [h w] for all images.

        What is outside goes through the autoencoder; paste puts the images' own pixels back there. jump, resample:
        RePaint's walk, 0 and 1 for replacement alone (`ldm_jax.tasks.Inpaint`). strength: as in `edit`, of what is
        there already; 1 is none of it. Models that were trained for it are told image and mask; with any other what is
        known is put back at every step, with compat="diffusers" as that library does. What was drawn is pasted into the
        image, which is encoded again wherever not all is painted (not with pipelines that were trained for it, nor with
        compat="diffusers").
        """
        pixels = in_range("images", images)
        mask = mask_of(masks, pixels.shape)
        _check_strength(strength)
        f = self.autoencoder.config.factor
        n, h, w, _ = mask.shape
        # That of the pixel at the corner, as the published models were trained.
        corners = mask[:, ::f, ::f]
        known = None if self.paints and strength == 1.0 else self.encode(pixels)
        first, held = sampling.get("first", 0), sampling.get("compat") == "diffusers"
        way: dict[str, Any] = {"task": Edit(float(strength)), "arrays": {"known": known}} if 0 < strength < 1 else {}
        if strength == 0:
            drawn = np.asarray(to_uint8(self.decode(known)))
        elif self._told_masks():
            masked = np.concatenate([corners, np.asarray(self.encode(pixels * (1.0 - mask)))], axis=-1)
            # What conditions are given goes round from the first image's number on, and these belong to this call's.
            drawn = self.sample(key, num=n, masked=np.roll(masked, first, axis=0), **way, **sampling)
        else:
            if self.paints:
                way |= {"image": np.roll(pixels, first, axis=0), "mask": np.roll(mask, first, axis=0)}
            else:
                # A latent position is painted where any of its pixels is.
                blocks = mask.reshape(n, h // f, f, w // f, f, 1).max(axis=(2, 4))
                arrays = {"known": known, "mask": jnp.asarray(corners if held else blocks)}
                way = {"task": Inpaint(jump, resample, float(strength), held), "arrays": arrays, **self._size(pixels)}
            if held:
                drawn = self.sample(key, num=n, **way, **sampling)
            else:
                output, size = sampling.pop("output", "images"), sampling.get("batch_size", 64)
                z = self.sample(key, num=n, output="latents", **way, **sampling)
                drawn = self._put_back(pixels, mask, z, output, size, sampling.get("tile", 0))
        if not paste:
            return drawn
        return np.where(mask > 0, drawn, np.asarray(to_uint8(jnp.asarray(pixels))))

    def _put_back(self, pixels: Any, mask: Any, z: Any, output: str, size: int, tile: int) -> Any:
        """Images [n h w c], or latents, of what was drawn joined to what was there, `size` at a time."""
        parts = []
        for begin in range(0, len(z), size):
            part = slice(begin, begin + size)
            joined = self._joined(z[part], pixels[part], mask[part], tile)
            parts.append(joined if output == "latents" else np.asarray(self._shown(jnp.asarray(joined), tile)))
        return np.concatenate(parts)

    def _joined(self, z: Any, pixels: Any, mask: Any, tile: int) -> np.ndarray:
        """Drawn latents where they and their neighbours are all painted, else the image's with the drawing in it.

        So what is outside is as good as the autoencoder has it, up to the border, and knows nothing of what was there.
        """
        f = self.autoencoder.config.factor
        pasted = np.where(mask > 0, np.asarray(self.decode(z, tile=tile)), np.asarray(pixels))
        n, h, w, _ = mask.shape
        whole = mask.reshape(n, h // f, f, w // f, f, 1).min(axis=(2, 4))
        inner = ndimage.minimum_filter(whole, size=(1, 3, 3, 1), mode="nearest") > 0
        return np.where(inner, np.asarray(z), np.asarray(self.encode(pasted, tile=tile)))

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

    def upscale(self, key: Array, images: Any, **sampling: Any) -> Any:
        """Enlarges images with a model that was trained for it; its own condition says how large they must be.

        A published upscaler that adds noise to them takes `noise_level` too (20 where None), and needs no prompts.
        """
        image, first = in_range("images", images), sampling.get("first", 0)
        if any(isinstance(one, NoisedImage) for one in self.conditions):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(len(image)))
            noise = np.asarray(samplers.normal(keys, jnp.asarray(image), NOISED))
            noise = sampling.get("image_noise", noise)
            sampling = {"prompts": [""], **sampling, "image_noise": np.roll(noise, first, axis=0)}
        return self.sample(key, num=len(image), image=np.roll(image, first, axis=0), **sampling)


NOISED = 2**31 - 3
"""Apart from the folds of the latents' noise: that on a small image."""


def _check_strength(strength: Any) -> None:
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0.0 <= strength <= 1.0:
        raise InputError(f"strength: {strength} must be between 0 and 1")
