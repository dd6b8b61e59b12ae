"""A published text condition with a new word, whose vectors are trained while everything else stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ldm_jax.conditions.base import Arrays, Params
from ldm_jax.conditions.text import TextCondition
from ldm_jax.data import Example
from ldm_jax.models import Conditioning


@dataclasses.dataclass(frozen=True, eq=False)
class NewWordCondition(TextCondition):
    """See `Condition`; its arrays are the token ids [l] of each encoder, by its name, for texts that have the word.

    params: those of each encoder by its name, the word's vectors in their tables of tokens.
    """

    word: str = ""
    """As it is written in texts."""
    templates: tuple[str, ...] = ()
    """Texts with {} for the word; they stand for captions that lack it."""

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "word": self.word}

    def read(self, example: Example) -> Sequence[Arrays]:
        own = tuple(text for text in example.captions if self.word.casefold() in text.casefold())
        return super().read(example._replace(captions=own or self.texts))

    @property
    def texts(self) -> tuple[str, ...]:
        """The templates with the word."""
        return tuple(template.replace("{}", self.word) for template in self.templates)

    def embed(self, arrays: Arrays) -> dict[str, Any]:
        return dict(arrays)

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        told = self.encoders.encode_by(params, arrays)._asdict()
        found = {name: leaf for name, leaf in told.items() if leaf is not None}
        found = found if self.pixels is None else self.sized(found, self.pixels)
        return Conditioning(**{name: jnp.asarray(leaf) for name, leaf in found.items()})

    def plain(self, params: Params) -> TextCondition:
        """The condition that these parameters make, for drawing."""
        return TextCondition(self.encoders.with_params(params), self.sizes, self.scores, name=self.name)
