"""Texts through frozen encoders: what published text-to-image models are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.encoders import TextConditioner, distinct_texts
from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning

SIZES = 6
"""SDXL's time_ids: the original size, the crop's corner, the size wanted (arXiv 2307.01952, section 2.2)."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextCondition:
    """See `Condition`; read gives token ids, embed the context [l d] and, where there is one, pooled [e]."""

    encoders: TextConditioner
    sizes: bool = False
    """The network is also told the image's size, as SDXL is."""
    dropout: float | None = None
    pixels: tuple[int, ...] | None = None
    """The size of the images that it is trained with; None where it isn't trained."""
    name: str = "text"
    fields: ClassVar[tuple[str, ...]] = ("caption",)
    asks: ClassVar[tuple[str, ...]] = ("prompts", "negative")

    @property
    def channels(self) -> int:
        return 0

    def describe(self) -> Mapping[str, Any]:
        encoders = {name: type(e.module).__name__ for name, e in self.encoders.encoders.items()}
        sizes = list(self.pixels) if self.sizes and self.pixels else []
        return {"kind": self.name, "style": self.encoders.style, "encoders": encoders, "sizes": sizes}

    def read(self, example: Example) -> Sequence[Arrays]:
        captions = [text for text in (example.caption, *getattr(example, "captions", ())) if text]
        each = self.encoders.tokens(list(dict.fromkeys(captions)) or [""])
        count = len(next(iter(each.values())))
        return [{name: ids[i] for name, ids in each.items()} for i in range(count)]

    def embed(self, arrays: Arrays) -> dict[str, Any]:
        cond = self.encoders.encode(arrays)
        found = {name: np.asarray(leaf) for name, leaf in cond._asdict().items() if leaf is not None}
        return found if self.pixels is None else self.sized(found, self.pixels)

    def init(self, key: Array) -> Params:
        return {}

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        return Conditioning(**{name: jnp.asarray(leaf) for name, leaf in arrays.items()})

    def null(self, arrays: Arrays) -> Arrays:
        n = len(arrays["context"])
        nothing = {k: np.broadcast_to(v, (n, *v.shape[1:])) for k, v in self.encoders.nothing.items()}
        return {name: nothing.get(name, leaf) for name, leaf in arrays.items()}

    def sized(self, arrays: dict[str, Any], pixels: tuple[int, ...]) -> dict[str, Any]:
        """With the image's size, where the network is told."""
        if not self.sizes:
            return arrays
        h, w = pixels
        ids = np.tile(np.array([[h, w, 0, 0, h, w]], np.float32), (len(arrays["context"]), 1))
        return {**arrays, "time_ids": ids}

    def ask(self, size: Size, **given: Any) -> Asked:
        """prompts: a list of texts; negative: one text or as many, from which guidance leads away."""
        cond, prompts, negative = (given.get(name) for name in ("cond", "prompts", "negative"))
        if prompts is None and (cond is None or cond.context is None):
            raise InputError("prompt: this model draws from texts; give one (or cond with its embedding)")
        if prompts is not None:
            if isinstance(prompts, str) or not len(prompts) or not all(isinstance(text, str) for text in prompts):
                raise InputError("prompt: give a list of one text or more")
            distinct, place = distinct_texts(prompts)
            arrays = self.embed(self.encoders.tokens(distinct))
            arrays = {name: leaf[place] for name, leaf in arrays.items()}
            arrays = self.sized(arrays, size.pixels)
        else:
            assert cond is not None
            arrays = {name: leaf for name, leaf in cond._asdict().items() if leaf is not None}
            arrays = arrays if "time_ids" in arrays else self.sized(arrays, size.pixels)
        null = None
        if negative is not None:
            texts = [negative] if isinstance(negative, str) else list(negative)
            null = self.sized(self.embed(self.encoders.tokens(texts)), size.pixels)
        return Asked(arrays, null)
