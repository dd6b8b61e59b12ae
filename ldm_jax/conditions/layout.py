"""Layout to image: objects with their boxes as tokens (GLIGEN, Li et al. 2023, arXiv 2301.07093, section 3.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.building import Given, check_dropout
from ldm_jax.conditions.classes import class_number
from ldm_jax.data import Example, View
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning, apply
from ldm_jax.models.boxes import BoxEncoder, BoxEncoderConfig
from ldm_jax.pretrained.parts import save_part

PART = "layout"
"""The folder of the encoder's parameters."""
VISIBLE = 0.2
"""A box of which the crop leaves less than this is left out."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The objects of the image and their boxes; an example without them counts as one whose layout was dropped."""

    label: ClassVar[str] = "layout"

    boxes: int = 8
    """Most boxes; of more in an example the largest count."""
    width: int = 192
    """Features of a token; beside a text they must be as many as the encoder of the text has."""
    hidden: int = 512
    """Hidden features of the MLP that makes a token of a class and a box."""
    words: bool = False
    """A class is the sum of its name's words, so that "red star" is known from "red ring" and "blue star"; else each
    has an embedding of its own."""
    dropout: float = 0.1
    """Share of examples trained without it, for guidance and for drawing from nothing."""

    def __post_init__(self) -> None:
        check_dropout(self.label, self.dropout)
        for field in ("boxes", "width", "hidden"):
            if getattr(self, field) < 1:
                raise InputError(f"conditions.{self.label}.{field}: {getattr(self, field)} must be at least 1")

    def build(self, given: Given) -> LayoutCondition:
        """The condition for these data; InputError where they have no boxes, or are no pictures."""
        if not given.object_names:
            raise InputError(f"conditions.{self.label}: the data have no boxes of objects (docs/data.md tells of them)")
        return LayoutCondition(self, tuple(given.object_names))


@dataclasses.dataclass(frozen=True)
class SavedLayout:
    """See `Saved`; layout/ lies beside it."""

    config: Layout
    object_names: tuple[str, ...]

    def open(self, folder: Path, part: Callable[[str], tuple[Any, Params]]) -> tuple[LayoutCondition, Params]:
        """See `Saved`."""
        module, params = part(PART)
        dtype: Any = getattr(getattr(module, "config", None), "dtype", "float32")
        condition = LayoutCondition(self.config, self.object_names, dtype)
        if module != condition.encoder:
            raise InputError(f"model: {folder / PART} is no encoder of this layout's boxes and classes")
        return condition, params


@dataclasses.dataclass(frozen=True)
class LayoutCondition:
    """See `Condition`. Arrays: boxes float32 [k 4], (x0 y0 x1 y1) in units of the sides; classes int32 [k].

    A class of len(object_names) is none, as is all of null.
    """

    config: Layout
    object_names: tuple[str, ...]
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic."""
    name: str = "layout"
    fields: ClassVar[tuple[str, ...]] = ("objects",)
    asks: ClassVar[tuple[str, ...]] = ("layout",)

    @property
    def channels(self) -> int:
        return 0

    @property
    def dropout(self) -> float | None:
        return self.config.dropout

    @property
    def encoder(self) -> BoxEncoder:
        """The network that makes tokens."""
        members = tuple((i,) for i in range(len(self.object_names)))
        if self.config.words:
            words = [name.split() or [name] for name in self.object_names]
            places = {word: i for i, word in enumerate(dict.fromkeys(word for own in words for word in own))}
            members = tuple(tuple(sorted({places[word] for word in own})) for own in words)
        return BoxEncoder(BoxEncoderConfig(members, self.config.width, self.config.hidden, self.dtype))

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name, "boxes": self.config.boxes, "object_names": list(self.object_names)}

    def read(self, example: Example) -> Sequence[Arrays]:
        found = example.objects
        if found is None:
            return [self._arrays(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))]
        h, w = int(example.image.shape[0]), int(example.image.shape[1])
        view = View((h, w), min(h, w)) if example.view is None else example.view
        whole = view.boxes(found.boxes)
        seen = np.clip(whole, 0.0, 1.0)
        kept = np.flatnonzero(_areas(seen) >= np.maximum(VISIBLE * _areas(whole), 1e-6))
        largest = np.sort(kept[np.argsort(-_areas(seen)[kept], kind="stable")[: self.config.boxes]])
        return [self._arrays(seen[largest], found.classes[largest])]

    def _arrays(self, boxes: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
        """Filled up to as many boxes as there may be."""
        more = self.config.boxes - len(boxes)
        filled = np.pad(classes.astype(np.int32), (0, more), constant_values=len(self.object_names))
        return {"boxes": np.pad(boxes.astype(np.float32), ((0, more), (0, 0))), "classes": filled}

    def embed(self, arrays: Arrays) -> Arrays:
        return arrays

    def init(self, key: Array) -> Params:
        return self.encoder.init(key, *self.encoder.example_inputs())["params"]

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        classes, boxes = jnp.asarray(arrays["classes"]), jnp.asarray(arrays["boxes"])
        there = jnp.concatenate([jnp.ones((len(classes), 1), bool), classes < len(self.object_names)], axis=1)
        return Conditioning(context=apply(self.encoder, params, classes, boxes), context_mask=there)

    def null(self, arrays: Arrays) -> Arrays:
        none = np.full(np.shape(arrays["classes"]), len(self.object_names), np.int32)
        return {"boxes": np.zeros(np.shape(arrays["boxes"]), np.float32), "classes": none}

    def ask(self, size: Size, **given: Any) -> Asked:
        """layout: a list of layouts, each a list of (class, (x0, y0, x1, y1)), the class by name or number, the box in
        units of the sides, from the top left; one layout may stand without its list.

        Without it nothing is told, where that was trained.
        """
        layout = given.get("layout")
        if layout is None:
            if not self.config.dropout:
                raise InputError('layout: this model draws from boxes; give [[("class", (x0, y0, x1, y1)), ...], ...]')
            rows = [self._arrays(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))]
        else:
            rows = [self._told(one) for one in _layouts(layout)]
        return Asked({name: np.stack([row[name] for row in rows]) for name in rows[0]})

    def _told(self, layout: Sequence[Any]) -> dict[str, np.ndarray]:
        if len(layout) > self.config.boxes:
            raise InputError(f"layout: {len(layout)} boxes must be at most {self.config.boxes}")
        numbers = [self._number(kind) for kind, _ in layout]
        boxes = np.array([box for _, box in layout], np.float32).reshape(-1, 4)
        return self._arrays(boxes, np.array(numbers, np.int64))

    def _number(self, kind: Any) -> int:
        try:
            return class_number(kind, len(self.object_names), self.object_names)
        except InputError as error:
            raise InputError(f"layout{str(error).removeprefix('label')}") from error

    def save(self, params: Params, folder: Path) -> SavedLayout:
        """See `WithFiles`."""
        save_part(dataclasses.replace(self, dtype="float32").encoder, params, folder / PART)
        return SavedLayout(self.config, self.object_names)


def _areas(boxes: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, "k"]:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), axis=1)


def _layouts(given: Any) -> Sequence[Sequence[Any]]:
    """The layouts that a user gives, each box looked at."""
    accepted = 'accepted: [[("class", (x0, y0, x1, y1)), ...], ...], with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1'
    if not isinstance(given, list | tuple) or not given:
        raise InputError(f"layout: {str(given)[:60]!r} is no list of layouts; {accepted}")
    layouts = [given] if all(_is_object(one) for one in given) else list(given)
    for layout in layouts:
        if not isinstance(layout, list | tuple):
            raise InputError(f"layout: {str(layout)[:60]!r} is no layout; {accepted}")
        for one in layout:
            if not _is_object(one):
                raise InputError(f"layout: {str(one)[:60]!r} is no class with its box; {accepted}")
            try:
                x0, y0, x1, y1 = (float(side) for side in one[1])
            except (TypeError, ValueError) as error:
                raise InputError(f"layout: {str(one[1])[:60]!r} is no box; {accepted}") from error
            if not (0.0 <= x0 < x1 <= 1.0 and 0.0 <= y0 < y1 <= 1.0):
                raise InputError(f"layout: the box {[x0, y0, x1, y1]} of {one[0]!r} is no box in the image; {accepted}")
    return layouts


def _is_object(one: Any) -> bool:
    return isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], str | int)
