"""Images that a user joins to z as they are: published super-resolution and inpainting models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.images import floating, in_range
from ldm_jax.models import Conditioning


@dataclasses.dataclass(frozen=True)
class GivenImage:
    """See `Condition`; an image [*space c] of the latents' size, which decides that of what is drawn."""

    channels: int
    name: str = "image"
    dropout: float | None = None
    fields: ClassVar[tuple[str, ...]] = ("image",)
    asks: ClassVar[tuple[str, ...]] = ("image",)

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name, "channels": self.channels}

    def read(self, example: Example) -> Sequence[Arrays]:
        raise InputError("denoiser: it draws from images that are joined to z; such a model can't be trained on yet")

    def embed(self, arrays: Arrays) -> Arrays:
        return arrays

    def init(self, key: Array) -> Params:
        return {}

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        return Conditioning(image=jnp.asarray(arrays["image"], jnp.float32))

    def null(self, arrays: Arrays) -> Arrays:
        return arrays

    def ask(self, size: Size, **given: Any) -> Asked:
        """image: [m *space c], uint8 or in [-1, 1]; with a mask or latents among the channels, finite floats."""
        image, cond = given.get("image"), given.get("cond")
        if image is None and cond is not None:
            image = cond.image
        if image is None:
            raise InputError(f"image: this model draws from images; give [n h w {self.channels}] in [-1, 1]")
        if np.shape(image)[-1] != self.channels:
            raise InputError(f"image: {np.shape(image)} must have {self.channels} channels")
        if isinstance(image, Tracer):
            return Asked({"image": image})
        # Published inpainting models take a mask and latents beside pictures, which have no range.
        if given.get("image") is not None and self.channels in (1, 3):
            return Asked({"image": in_range("image", image)})
        image = np.asarray(image)
        if not (floating(image.dtype) and np.isfinite(image.astype(np.float32)).all()):
            raise InputError(f"image: {image.dtype} must be finite floats")
        return Asked({"image": image.astype(np.float32)})
