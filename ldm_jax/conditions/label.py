"""Classes: one label an example, from sub-folders or label columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.building import Given, check_dropout
from ldm_jax.conditions.classes import class_number
from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning


@dataclasses.dataclass(frozen=True)
class Label:
    """The class of the image; one without a label counts as one whose label was dropped."""

    label: ClassVar[str] = "label"

    dropout: float = 0.1
    """Share of examples trained without their label, for guidance."""

    def __post_init__(self) -> None:
        check_dropout(self.label, self.dropout)

    def build(self, given: Given) -> LabelCondition | None:
        """The condition for these data; None where they have no classes."""
        return LabelCondition(tuple(given.class_names), self.dropout) if given.class_names else None


@dataclasses.dataclass(frozen=True)
class LabelCondition:
    """See `Condition`. class_names: their number is that of the classes, which also stands for 'none'."""

    class_names: tuple[str, ...]
    dropout: float | None = None
    name: str = "label"
    fields: ClassVar[tuple[str, ...]] = ("label",)
    asks: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return 0

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "label", "num_classes": self.num_classes}

    def read(self, example: Example) -> Sequence[Arrays]:
        label = example.label if example.label >= 0 else self.num_classes
        return [{"label": np.int32(label)}]

    def embed(self, arrays: Arrays) -> Arrays:
        return arrays

    def init(self, key: Array) -> Params:
        return {}

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        return Conditioning(label=arrays["label"])

    def null(self, arrays: Arrays) -> Arrays:
        return {"label": np.full(np.shape(arrays["label"]), self.num_classes, np.int32)}

    def ask(self, size: Size, **given: Any) -> Asked:
        """labels: indices or names of classes, one or several; all classes where None."""
        labels, cond = given.get("labels"), given.get("cond")
        if labels is None and cond is not None and cond.label is not None:
            return Asked({"label": cond.label})
        if labels is None:
            labels = range(self.num_classes)
        if isinstance(labels, str) or np.ndim(labels) == 0:
            labels = [labels]
        chosen = [self.index(label) for label in labels]
        if not chosen:
            raise InputError(f"label: name one or more between 0 and {self.num_classes - 1}")
        return Asked({"label": np.asarray(chosen, np.int32)})

    def index(self, label: Any) -> int:
        """A class's index, from that or from its name; InputError for none."""
        if not isinstance(label, str) and int(label) != label:
            raise InputError(f"label: {label} must be between 0 and {self.num_classes - 1}")
        return class_number(label, self.num_classes, self.class_names)
