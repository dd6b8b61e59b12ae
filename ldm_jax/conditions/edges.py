"""Edges to image: where the image changes, found in the image itself, joined to z (Isola et al. 2016, 1611.07004)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image
from scipy import ndimage

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.building import Given, check_dropout, picture_shape
from ldm_jax.conditions.images import Pixels, cached_image, given_images, picture_files, pictures_of_files
from ldm_jax.data import Example, to_uint8
from ldm_jax.errors import InputError
from ldm_jax.images import in_range
from ldm_jax.models import Conditioning
from ldm_jax.models.layers import space_to_depth


def edges(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
    """Sobel's gradient of an image's luma, its magnitude: 255 where black meets white, 0 where nothing changes."""
    grey = image if image.shape[-1] == 1 else np.asarray(Image.fromarray(image).convert("L"))[..., None]
    x = grey[..., 0].astype(np.float32)
    down, across = (np.asarray(ndimage.sobel(x, axis, mode="nearest")) for axis in (0, 1))
    # A step from 0 to 255 gives 4 times 255.
    return np.clip(np.rint(np.hypot(down, across) / 4.0), 0, 255).astype(np.uint8)[..., None]


@dataclasses.dataclass(frozen=True)
class Edges:
    """The edges of the image (`edges`), as a grey picture of its size; any images can be trained with."""

    label: ClassVar[str] = "edges"

    dropout: float = 0.1
    """Share of examples trained without them, for guidance and for drawing from nothing."""

    def __post_init__(self) -> None:
        check_dropout(self.label, self.dropout)

    def build(self, given: Given) -> EdgesCondition:
        """The condition for pictures of this shape."""
        h, w, _ = picture_shape(self.label, given)
        return EdgesCondition(self, (h, w, 1), h // given.latent[0])


@dataclasses.dataclass(frozen=True)
class EdgesCondition(Pixels):
    """See `Condition` and `Pixels`. A latent position is told the `factor` x `factor` edge pixels that it stands for.

    Black, no edge, is -1 and white 1; 0 everywhere says that nothing is known.
    """

    config: Edges
    name: str = "edges"
    fields: ClassVar[tuple[str, ...]] = ("image",)
    asks: ClassVar[tuple[str, ...]] = ("edges", "edges_of")

    @property
    def channels(self) -> int:
        return self.factor**2

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name, "shape": list(self.shape)}

    def read(self, example: Example) -> Sequence[Arrays]:
        return [{"image": edges(np.asarray(example.image)), "hidden": np.bool_(False)}]

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        return Conditioning(image=space_to_depth(self.shown(arrays, cached_image(arrays["image"])), self.factor))

    def ask(self, size: Size, **given: Any) -> Asked:
        """edges: [n h w 1], uint8 or in [-1, 1], white on black; edges_of: pictures [n h w c] whose edges are taken.

        Each may be files in their place. Without both nothing is told, where that was trained.
        """
        drawn, pictures = given.get("edges"), given.get("edges_of")
        h, w = size.pixels
        if drawn is not None and pictures is not None:
            raise InputError("edges, edges_of: give one of them")
        if drawn is None and pictures is None:
            if not self.config.dropout:
                raise InputError(f"edges: this model draws from edges; give [n {h} {w} 1], or pictures as edges_of")
            return self.nothing((h, w, 1))
        name, value = ("edges", drawn) if pictures is None else ("edges_of", pictures)
        files = picture_files(value)
        if files is not None:
            value = pictures_of_files(name, files, (h, w), 1)
        if pictures is not None:
            value = _edges_of(value, (h, w))
        return self.whole(given_images("edges", value, (h, w, 1)))


def _edges_of(pictures: Any, size: tuple[int, ...]) -> UInt8[np.ndarray, "n h w 1"]:
    x = in_range("edges_of", pictures)
    if x.ndim != 4 or x.shape[1:3] != size or x.shape[-1] not in (1, 3):
        raise InputError(f"edges_of: {list(x.shape)} must be [n {' '.join(map(str, size))} c] with c 1 or 3")
    return np.stack([edges(one) for one in to_uint8(x)])
