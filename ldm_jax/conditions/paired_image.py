"""An image that belongs to each example, such as a sketch, a depth or a semantic map, joined to z.

LDM joins semantic maps to z in the same way (arXiv 2112.10752, section 4.3.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.building import Given, check_dropout, picture_shape
from ldm_jax.conditions.images import (
    Pixels,
    averaged,
    cached_image,
    file_view,
    given_images,
    picture_files,
    pictures_of_files,
)
from ldm_jax.data import Example, View
from ldm_jax.data.decoding import decode_ids, read_named
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning
from ldm_jax.models.layers import space_to_depth

NONE = 255
"""The class number of what is unlabelled, as in Pascal VOC, Cityscapes and ADE20K."""


@dataclasses.dataclass(frozen=True)
class PairedImage:
    """The image that the data have beside each example; one without it counts as one whose image was dropped."""

    label: ClassVar[str] = "paired_image"

    classes: int = 0
    """Its pixels are class numbers from 0 to `classes` - 1, and 255 for none; 0: it is a picture."""
    channels: int = 3
    """Of a picture: 3 (colour) or 1 (grey); it is converted."""
    dropout: float = 0.1
    """Share of examples trained without it, for guidance and for drawing from nothing."""

    def __post_init__(self) -> None:
        check_dropout(self.label, self.dropout)
        if not 0 <= self.classes <= NONE or self.channels not in (1, 3):
            raise InputError(
                f"conditions.{self.label}: classes ({self.classes}) must be 0 to {NONE}, channels ({self.channels}) "
                "1 or 3"
            )

    def build(self, given: Given) -> PairedImageCondition:
        """The condition for these data; InputError where no images belong to them."""
        if not given.pairs:
            raise InputError(
                f"conditions.{self.label}: the data have no paired images; docs/data.md tells where they go"
            )
        h, w, _ = picture_shape(self.label, given)
        return PairedImageCondition(self, (h, w, 1 if self.classes else self.channels), h // given.latent[0])


@dataclasses.dataclass(frozen=True)
class PairedImageCondition(Pixels):
    """See `Condition` and `Pixels`; of a map, `image` is uint8 [h w 1] and its pixels are class numbers.

    A latent position is told the `factor` x `factor` pixels of a picture that it stands for, or how much of these each
    class has, 0 to 1. 0 everywhere says that nothing is known.
    """

    config: PairedImage
    name: str = "paired_image"
    fields: ClassVar[tuple[str, ...]] = ("paired",)
    asks: ClassVar[tuple[str, ...]] = ("paired",)

    @property
    def channels(self) -> int:
        return self.config.classes or self.factor**2 * self.shape[-1]

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name, "shape": list(self.shape), "classes": self.config.classes}

    def read(self, example: Example) -> Sequence[Arrays]:
        if example.paired is None:
            return [{"image": np.zeros(self.shape, np.uint8), "hidden": np.bool_(True)}]
        h, w, channels = self.shape
        view = View((h, w), h) if example.view is None else example.view
        if self.config.classes:
            where = str(example.paired) if isinstance(example.paired, Path) else "it"
            image = self._checked(view.ids(example.paired), where)
        else:
            image = view.picture(example.paired, channels)
        return [{"image": image, "hidden": np.bool_(False)}]

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        if not self.config.classes:
            return Conditioning(image=space_to_depth(self.shown(arrays, cached_image(arrays["image"])), self.factor))
        # One-hot of numbers beyond the classes, such as 255, is 0.
        each = jax.nn.one_hot(jnp.asarray(arrays["image"])[..., 0].astype(jnp.int32), self.config.classes)
        return Conditioning(image=averaged(self.shown(arrays, each), self.factor))

    def ask(self, size: Size, **given: Any) -> Asked:
        """paired: pictures [n h w c], uint8 or in [-1, 1], or class numbers [n h w]; or files of either.

        Without them nothing is told, where that was trained.
        """
        paired = given.get("paired")
        h, w, channels = *size.pixels, self.shape[-1]
        kind = f"class numbers [n {h} {w}]" if self.config.classes else f"[n {h} {w} {channels}]"
        if paired is None:
            if not self.config.dropout:
                raise InputError(f"paired: this model draws from images; give {kind}, or files")
            return self.nothing((h, w, channels))
        files = picture_files(paired)
        if self.config.classes:
            image = self._ids(paired, (h, w)) if files is None else self._ids_of(files, (h, w))
        else:
            pictures = paired if files is None else pictures_of_files("paired", files, (h, w), channels)
            image = given_images("paired", pictures, (h, w, channels))
        return self.whole(image)

    def _ids_of(self, files: Sequence[Any], size: tuple[int, ...]) -> UInt8[np.ndarray, "n h w 1"]:
        found = [read_named("paired", file, decode_ids) for file in files]
        seen = [file_view(size, ids, "paired").ids(ids) for ids in found]
        return np.stack([self._checked(ids, str(file)) for ids, file in zip(seen, files, strict=True)])

    def _ids(self, paired: Any, size: tuple[int, ...]) -> UInt8[np.ndarray, "n h w 1"]:
        ids = np.asarray(paired)
        ids = ids[..., None] if ids.ndim == 3 else ids
        if ids.dtype.kind not in "iu" or ids.ndim != 4 or ids.shape[1:] != (*size, 1) or not ids.size:
            wanted = " ".join(map(str, size))
            raise InputError(f"paired: {ids.dtype} {list(np.shape(paired))} must be class numbers [n {wanted}]")
        return self._checked(ids, "it")

    def _checked(self, ids: np.ndarray, where: str) -> np.ndarray:
        """Class numbers as uint8."""
        wrong = (ids < 0) | ((ids >= self.config.classes) & (ids != NONE))
        if wrong.any():
            raise InputError(
                f"paired: {where} holds the class {int(ids[wrong][0])}; accepted: 0 to "
                f"{self.config.classes - 1}, {NONE} for none"
            )
        return ids.astype(np.uint8)
