"""Images that a user joins to z as they are: published super-resolution and inpainting models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.images import floating, in_range
from ldm_jax.models import Conditioning


def cached_image(image: Any) -> Array:
    """Images [b *space c] as a cache has them, grey levels or floats in [-1, 1], as floats; also of a traced array."""
    image = jnp.asarray(image)
    return image.astype(jnp.float32) / 127.5 - 1.0 if image.dtype == jnp.uint8 else image


def mask_of(masks: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "n h w 1"]:
    """Masks as float32 of 0 and 1 for images [n h w c]; InputError for another size or nothing to paint."""
    mask = np.asarray(masks)
    if mask.ndim == 2:
        mask = np.broadcast_to(mask, (shape[0], *mask.shape))
    mask = mask[..., None] if mask.ndim == 3 else mask
    if mask.shape != (*shape[:3], 1):
        wanted = " ".join(map(str, (*shape[:3], 1)))
        raise InputError(f"masks: {list(np.shape(masks))} must be [{wanted}], [n h w] or [h w] of the images' size")
    values = np.unique(mask)
    full = 255 if mask.dtype == np.uint8 and values.max(initial=0) == 255 else 1
    if not np.isin(values.astype(np.float64), (0, full)).all():
        raise InputError("masks: they must hold 0 and 1 (or, as uint8, 0 and 255) alone")
    if not mask.any():
        raise InputError("masks: there is nothing to paint; 1 is where to paint, 0 what to keep")
    return (mask == full).astype(np.float32)


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
