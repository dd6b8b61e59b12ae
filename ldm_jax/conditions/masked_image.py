"""Inpainting and outpainting: the image without what is to be painted, and the mask, joined to z (LDM, section 4.5)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.building import Given, check_dropout, picture_shape
from ldm_jax.conditions.images import Pixels, cached_image, given_images, mask_of
from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning
from ldm_jax.models.layers import space_to_depth


@dataclasses.dataclass(frozen=True)
class MaskedImage:
    """The example's own pixels under a new random mask at every step: boxes, brush strokes, or all but a box."""

    label: ClassVar[str] = "masked_image"

    strokes: int = 5
    """Straight strokes of a brush."""
    dropout: float = 0.1
    """Share of examples trained with everything masked, for guidance and for drawing whole images."""

    def __post_init__(self) -> None:
        check_dropout(self.label, self.dropout)
        if self.strokes < 1:
            raise InputError(f"conditions.{self.label}.strokes: {self.strokes} must be at least 1")

    def build(self, given: Given) -> MaskedImageCondition:
        """The condition for pictures of this shape."""
        h, w, c = picture_shape(self.label, given)
        return MaskedImageCondition(self, (h, w, c), h // given.latent[0])


@dataclasses.dataclass(frozen=True)
class MaskedImageCondition(Pixels):
    """See `Condition`. Arrays: image uint8 [h w c]; hidden, whether all is masked; when asked also mask [h w 1].

    A latent position is told the `factor` x `factor` pixels that it stands for, 0 (grey) where they are masked, and the
    mask of each: so nothing of what is hidden can reach it, as it could through an encoder's receptive field.
    """

    config: MaskedImage
    name: str = "masked_image"
    fields: ClassVar[tuple[str, ...]] = ("image",)
    asks: ClassVar[tuple[str, ...]] = ("image", "mask")

    @property
    def channels(self) -> int:
        return self.factor**2 * (self.shape[-1] + 1)

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name, "shape": list(self.shape)}

    def read(self, example: Example) -> Sequence[Arrays]:
        return [{"image": np.asarray(example.image), "hidden": np.bool_(False)}]

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        x = cached_image(arrays["image"])
        if "mask" in arrays:
            mask = jnp.asarray(arrays["mask"], jnp.float32)
        elif keys is not None:
            mask = jax.vmap(lambda key: random_mask(key, x.shape[1:3], self.config.strokes))(keys)
        else:
            mask = jnp.broadcast_to(middle(x.shape[1:3]), (*x.shape[:3], 1))
        mask = jnp.where(jnp.asarray(arrays["hidden"])[:, None, None, None], 1.0, mask)
        told = jnp.concatenate([x * (1.0 - mask), mask], axis=-1)
        return Conditioning(image=space_to_depth(told, self.factor))

    def ask(self, size: Size, **given: Any) -> Asked:
        """image: [n h w c], uint8 or in [-1, 1]; mask: 1 where to paint. Whole images are drawn without both."""
        image, mask = given.get("image"), given.get("mask")
        h, w, c = *size.pixels, self.shape[-1]
        if image is None and mask is None:
            return self.nothing((h, w, c))
        if image is None or mask is None:
            raise InputError("image, mask: this model paints in images; give both, or neither")
        image = given_images("image", image, (h, w, c))
        hidden = np.zeros(len(image), bool)
        return Asked({"image": image, "mask": mask_of(mask, image.shape), "hidden": hidden})


def middle(space: tuple[int, ...]) -> Float[Array, "h w 1"]:
    """A mask of the middle quarter of the image."""
    y, x = _places(space)
    return ((jnp.abs(y - 0.5) < 0.25) & (jnp.abs(x - 0.5) < 0.25)).astype(jnp.float32)[..., None]


def _places(space: tuple[int, ...]) -> tuple[Array, Array]:
    """The pixels' centres in units of the sides, [h w] each."""
    h, w = space
    y, x = ((jnp.arange(side, dtype=jnp.float32) + 0.5) / side for side in (h, w))
    return jnp.broadcast_to(y[:, None], (h, w)), jnp.broadcast_to(x[None, :], (h, w))


def random_mask(key: Array, space: tuple[int, ...], strokes: int) -> Float[Array, "h w 1"]:
    """1 where to paint: two of five masks are boxes, two brush strokes, one is all but a box (outpainting)."""
    kind_key, box_key, stroke_key = jax.random.split(key, 3)
    y, x = _places(space)
    kind = jax.random.randint(kind_key, (), 0, 5)
    corners = jax.random.uniform(box_key, (2, 2))
    # Sides of a fifth to four fifths of the image's.
    sides = 0.2 + 0.6 * corners[0]
    first = corners[1] * (1.0 - sides)
    inside = (y >= first[0]) & (y < first[0] + sides[0]) & (x >= first[1]) & (x < first[1] + sides[1])
    ends_key, width_key = jax.random.split(stroke_key)
    ends = jax.random.uniform(ends_key, (strokes + 1, 2))
    width = 0.04 + 0.1 * jax.random.uniform(width_key)
    painted = jnp.zeros(y.shape, bool)
    for begin, end in itertools.pairwise(ends):
        along = end - begin
        share = ((y - begin[0]) * along[0] + (x - begin[1]) * along[1]) / jnp.maximum(along @ along, 1e-6)
        share = jnp.clip(share, 0.0, 1.0)
        apart = (y - begin[0] - share * along[0]) ** 2 + (x - begin[1] - share * along[1]) ** 2
        painted |= apart < width**2
    mask = jnp.where(kind < 2, inside, jnp.where(kind < 4, painted, ~inside))
    return mask.astype(jnp.float32)[..., None]
