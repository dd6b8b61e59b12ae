"""Labelled data sets for models that know their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from ldm_jax.data import Subset, open_source, prepare
from ldm_jax.errors import InputError


def labelled(
    field: str, name: str, split: str, model: Any, num: int | None = None
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
    """The split's images (all, or `num` spread evenly) as the model's, and labels; its classes must be the model's."""
    source = open_source(name, split)
    source = source if num is None else Subset.evenly(source, num)
    if tuple(source.class_names) != model.class_names:
        raise InputError(f"{field}: the classes of {name} must be the model's own: {', '.join(model.class_names)}")
    h, _, c = model.shape
    examples = [source[i] for i in range(len(source))]
    labels = np.array([example.label for example in examples])
    return np.stack([prepare(example.image, h, c) for example in examples]), labels
