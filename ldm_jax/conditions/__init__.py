"""What a denoiser is told besides z and t, a file a kind: how it is read, cached, dropped, and asked for.

Here belongs everything that one kind of condition needs, from the data's fields to the network's `Conditioning`. The
networks that read it are in models/, what a model is used for in tasks/. To add a kind, write its file and name its
config in CONDITIONS.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from ldm_jax.conditions.base import (
    Arrays,
    Asked,
    Condition,
    Saved,
    Size,
    WithFiles,
    drop,
    join,
    stack,
    training_conditioning,
)
from ldm_jax.conditions.building import Given
from ldm_jax.conditions.encoders import Encoder, Style, TextConditioner
from ldm_jax.conditions.images import GivenImage, mask_of
from ldm_jax.conditions.label import Label, LabelCondition
from ldm_jax.conditions.published import MaskedLatents, NoisedImage
from ldm_jax.conditions.text import TextCondition
from ldm_jax.images import in_range

CONDITIONS: tuple[tuple[str, str], ...] = (
    ("edges", "Edges"),
    ("label", "Label"),
    ("layout", "Layout"),
    ("low_resolution", "LowResolution"),
    ("masked_image", "MaskedImage"),
    ("paired_image", "PairedImage"),
    ("text", "Text"),
)
"""(file, config) of every condition that an experiment may name.

A model's folder has the condition that it builds, called configCondition; where that has files of its own, SavedConfig.
"""

if TYPE_CHECKING:
    from ldm_jax.conditions.building import ConditionConfig

    SavedCondition: TypeAlias = Any
else:
    _FILES = tuple((import_module(f"ldm_jax.conditions.{file}"), name) for file, name in CONDITIONS)
    ConditionConfig = Union[tuple(getattr(file, name) for file, name in _FILES)]  # noqa: UP007 (made of a tuple)
    _SAVED = tuple(getattr(file, f"Saved{name}", None) or getattr(file, f"{name}Condition") for file, name in _FILES)
    SavedCondition = Union[_SAVED]  # noqa: UP007

__all__ = [
    "CONDITIONS",
    "Arrays",
    "Asked",
    "Condition",
    "ConditionConfig",
    "Encoder",
    "Given",
    "GivenImage",
    "Label",
    "LabelCondition",
    "MaskedLatents",
    "NoisedImage",
    "Saved",
    "SavedCondition",
    "Size",
    "Style",
    "TextCondition",
    "TextConditioner",
    "WithFiles",
    "drop",
    "in_range",
    "join",
    "mask_of",
    "stack",
    "training_conditioning",
]
