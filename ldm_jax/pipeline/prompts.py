"""Prompts to what a denoiser is told: one to three text encoders, put together as each family of models wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ldm_jax.models import Conditioning, T5Encoder, TextEncoder, TextEncoding, apply
from ldm_jax.pretrained.tokenization import Tokenizer

Style = Literal["tokens", "sdxl", "sd3"]
T5_TOKENS = 256
"""Tokens of SD3's third encoder, also where there is none and they are zeros."""


class Encoder(NamedTuple):
    """One text encoder with its tokenizer."""

    module: TextEncoder | T5Encoder
    params: Any
    tokenizer: Tokenizer
    files: Mapping[str, bytes]
    """The tokenizer's files, for saving."""


@partial(jax.jit, static_argnames="module")
def _run(params: Any, ids: Array, *, module: TextEncoder | T5Encoder) -> TextEncoding:
    return apply(module, params, ids)


@dataclasses.dataclass(frozen=True, eq=False)
class TextConditioner:
    """Prompts -> Conditioning with `context` and, where the denoiser wants it, `pooled`."""

    encoders: Mapping[str, Encoder]
    """By the name of their folder, in the order in which they are put together."""
    style: Style = "tokens"
    """tokens: the one encoder's last states. sdxl: the states before the last blocks of both, side by side, and the
    second's pooled vector. sd3: the same, filled up with zeros to context_dim and followed by T5's tokens, zeros where
    there is no T5; the pooled vectors of both CLIPs."""
    context_dim: int = 0
    """Features of the context, for sd3."""
    zero_null: bool = False
    """No prompt at all is zeros instead of an encoded empty text."""

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """context [b l d], pooled [b e]; prompts longer than the encoder are cut."""
        if self.style == "tokens":
            return Conditioning(context=self._encode(next(iter(self.encoders)), prompts).tokens)
        clips = [name for name, encoder in self.encoders.items() if isinstance(encoder.module, TextEncoder)]
        # SD3 cuts and fills for both as its first tokenizer says.
        length = self.encoders[clips[0]].tokenizer.length if self.style == "sd3" else None
        found = [self._encode(name, prompts, length) for name in clips]
        context = jnp.concatenate([encoding.penultimate for encoding in found], axis=-1)
        if self.style == "sdxl":
            return Conditioning(context=context, pooled=found[-1].pooled)
        context = jnp.pad(context, ((0, 0), (0, 0), (0, self.context_dim - context.shape[-1])))
        third = jnp.zeros((len(context), T5_TOKENS, self.context_dim), context.dtype)
        for name in self.encoders.keys() - set(clips):
            third = self._encode(name, prompts, T5_TOKENS).tokens
        pooled = jnp.concatenate([encoding.pooled for encoding in found if encoding.pooled is not None], axis=-1)
        return Conditioning(context=jnp.concatenate([context, third], axis=1), pooled=pooled)

    def _encode(self, name: str, prompts: Sequence[str], length: int | None = None) -> TextEncoding:
        encoder = self.encoders[name]
        if isinstance(encoder.module, TextEncoder):
            # BERT's tokenizers allow for 512 tokens, also where LDM's BERT has 77 places.
            length = min(length or encoder.tokenizer.length, encoder.module.config.positions)
        ids = encoder.tokenizer(prompts, length).ids
        return _run(encoder.params, jnp.asarray(ids), module=encoder.module)

    def null(self, cond: Conditioning, negative: Sequence[str] | None) -> Conditioning:
        """What guidance leads away from: negative prompts, an empty text, or zeros like `cond`."""
        if negative is None and self.zero_null:
            return jax.tree.map(jnp.zeros_like, cond)
        return self([""] if negative is None else negative)
