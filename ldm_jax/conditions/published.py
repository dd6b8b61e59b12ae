"""What the denoisers of published inpainting and super-resolution pipelines have joined to z."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.images import GivenImage, in_range
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning


@dataclasses.dataclass(frozen=True)
class MaskedLatents(GivenImage):
    """See `Condition`; the mask, 1 where to paint, and the latents of the image without what is there (9 channels)."""

    name: str = "masked"
    asks: ClassVar[tuple[str, ...]] = ("masked",)

    def ask(self, size: Size, **given: Any) -> Asked:
        """masked: [m *space 1 + c], as `LatentDiffusion.inpaint` makes it."""
        masked, cond = given.get("masked"), given.get("cond")
        if masked is None and cond is not None:
            masked = cond.image
        if masked is None:
            raise InputError("mask: this model paints within images; give image and mask (inpaint(key, images, masks))")
        if np.shape(masked)[1:] != (*size.space, self.channels):
            wanted = " ".join(map(str, (*size.space, self.channels)))
            raise InputError(f"masked: {list(np.shape(masked))} must be [n {wanted}]")
        return Asked({"image": np.asarray(masked, np.float32)})


@dataclasses.dataclass(frozen=True, eq=False)
class NoisedImage(GivenImage):
    """See `Condition`; a small image with noise of a level that the network is told (arXiv 2106.15282, section 4.2)."""

    alphas: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(1))
    """The image's share at each level; that of the noise follows, as the squares add up to 1."""
    most: int = 0
    """The largest level that it was trained with."""
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The scheduler's config that they are from."""
    level: int = 20
    """Where none is asked for."""
    asks: ClassVar[tuple[str, ...]] = ("image", "noise_level", "image_noise")

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "levels": len(self.alphas)}

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        return super().apply(params, arrays, keys)._replace(label=jnp.asarray(arrays["level"]))

    def ask(self, size: Size, **given: Any) -> Asked:
        """image: [m *space c] in [-1, 1]; noise_level: of the noise added; image_noise: that noise, ours where None."""
        image, level, noise = (given.get(name) for name in ("image", "noise_level", "image_noise"))
        if image is None:
            raise InputError(f"image: this model enlarges images; give [n h w {self.channels}] in [-1, 1]")
        image, level = in_range("image", image), self.level if level is None else level
        if image.shape[-1] != self.channels:
            raise InputError(f"image: {image.shape} must have {self.channels} channels")
        if type(level) is not int or not 0 <= level <= self.most:
            raise InputError(f"noise_level: {level!r} must be a whole number between 0 and {self.most}")
        if noise is None:
            noise = jax.random.normal(jax.random.key(0), image.shape)
        alpha = self.alphas[level]
        noised = alpha * image + np.sqrt(1.0 - alpha**2) * np.asarray(noise, np.float64)
        return Asked({"image": noised.astype(np.float32), "level": np.full(len(image), level, np.int32)})
