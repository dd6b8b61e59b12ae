"""What conditions have in common that join an image to z, and images that a user joins as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, UInt8

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.data import Example, View
from ldm_jax.data.decoding import read_named
from ldm_jax.errors import InputError
from ldm_jax.images import floating, in_range
from ldm_jax.models import Conditioning


def cached_image(image: Any) -> Array:
    """Images [b *space c] as a cache has them, grey levels or floats in [-1, 1], as floats; also of a traced array."""
    image = jnp.asarray(image)
    return image.astype(jnp.float32) / 127.5 - 1.0 if image.dtype == jnp.uint8 else image


def averaged(x: Any, factor: int) -> Any:
    """Images [b *space c] averaged over blocks of `factor` pixels along each axis; floats, of numpy or JAX."""
    b, *space, c = x.shape
    blocks = x.reshape(b, *(size for side in space for size in (side // factor, factor)), c)
    return blocks.mean(axis=tuple(range(2, 2 * len(space) + 1, 2)))


def given_images(name: str, images: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "n ... c"]:
    """Images that a user gives as float32 [n *shape] in [-1, 1]; InputError under `name` for anything else."""
    found = in_range(name, images)
    if found.shape[1:] != shape:
        raise InputError(f"{name}: {list(found.shape)} must be [n {' '.join(map(str, shape))}]")
    return found


def picture_files(given: Any) -> list[Path] | None:
    """The files that a user names, one or several; None where arrays are given."""
    names = [given] if isinstance(given, str | Path) else given
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str | Path) for name in names):
        return None
    return [Path(name) for name in names]


def file_view(size: tuple[int, ...], pixels: np.ndarray, name: str) -> View:
    """How a file's picture [h w c] is brought to what is drawn; InputError where no square is."""
    if len(set(size)) != 1:
        raise InputError(f"{name}: files are for square images; give arrays [n {' '.join(map(str, size))} c]")
    return View((int(pixels.shape[0]), int(pixels.shape[1])), size[0])


def pictures_of_files(
    name: str, files: Sequence[Path], size: tuple[int, ...], channels: int
) -> UInt8[np.ndarray, "n h w c"]:
    """Picture files cropped and resized as training does it."""
    found = [read_named(name, file) for file in files]
    return np.stack([file_view(size, pixels, name).picture(pixels, channels) for pixels in found])


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What conditions have in common that tell the denoiser an image of the example's own size.

    Arrays: image [h w c], uint8 or float32 in [-1, 1]; hidden, whether nothing of it is told.
    """

    config: Any
    shape: tuple[int, int, int]
    """[h w c] of the image."""
    factor: int
    """How many of its pixels, along each axis, a latent position stands for."""

    @property
    def dropout(self) -> float | None:
        return self.config.dropout

    def embed(self, arrays: Arrays) -> Arrays:
        return arrays

    def init(self, key: Array) -> Params:
        return {}

    def null(self, arrays: Arrays) -> Arrays:
        nothing = {name: np.zeros(np.shape(value), value.dtype) for name, value in arrays.items()}
        return {**nothing, "hidden": np.ones(np.shape(arrays["hidden"]), bool)}

    def nothing(self, shape: tuple[int, ...]) -> Asked:
        """One image [h w c] of which nothing is told."""
        return Asked(self.null({"image": np.zeros((1, *shape), np.float32), "hidden": np.zeros(1, bool)}))

    def whole(self, images: np.ndarray) -> Asked:
        """Images [n h w c], all of which are told."""
        return Asked({"image": images, "hidden": np.zeros(len(images), bool)})

    def shown(self, arrays: Arrays, x: Array) -> Array:
        """x [b h w c], 0 where all of it is hidden."""
        return jnp.where(jnp.asarray(arrays["hidden"])[:, None, None, None], jnp.zeros_like(x), x)


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
