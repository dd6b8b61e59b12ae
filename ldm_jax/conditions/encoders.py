"""Prompts to what a denoiser is told: one to three text encoders, put together as each family of models wants."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ldm_jax.models import Conditioning, T5Encoder, TextEncoder, TextEncoding, apply
from ldm_jax.pretrained.tokenization import Tokenizer

Style = Literal["tokens", "sdxl", "sd3"]
BATCH = 8
"""Prompts that are encoded at once."""
T5_TOKENS = 256
"""Tokens of SD3's third encoder, also where there is none and they are zeros."""


class Encoder(NamedTuple):
    """One text encoder with its tokenizer."""

    module: TextEncoder | T5Encoder
    params: Any
    tokenizer: Tokenizer
    files: Mapping[str, bytes]
    """The tokenizer's files, for saving."""

    def ids(self, prompts: Sequence[str], length: int | None = None) -> np.ndarray:
        """int32 [b l]."""
        if isinstance(self.module, TextEncoder):
            # BERT's tokenizers allow for 512 tokens, also where LDM's BERT has 77 places.
            length = min(length or self.tokenizer.length, self.module.config.positions)
        return np.asarray(self.tokenizer(prompts, length).ids)

    def run(self, ids: np.ndarray | Array, mask: np.ndarray | Array | None = None) -> TextEncoding:
        """The encoding of ids [b l]; mask: True where a token counts, all of them where None."""
        return _run(self.params, jnp.asarray(ids), mask, module=self.module)


@partial(jax.jit, static_argnames="module")
def _run(params: Any, ids: Array, mask: Array | None, *, module: TextEncoder | T5Encoder) -> TextEncoding:
    return apply(module, params, ids) if mask is None else apply(module, params, ids, mask)


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], Int[np.ndarray, "b"]]:
    """Each text once, in order, and which of these every text is."""
    places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return list(places), np.array([places[text] for text in texts])


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
    masked: bool = False
    """What fills texts up is not attended to, neither by the encoder nor by the denoiser; published pipelines do."""

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """context [b l d], pooled [b e]; each distinct prompt is encoded once, longer ones than the encoder are cut."""
        distinct, place = distinct_texts(prompts)
        encoded = self.encode(self.tokens(distinct))
        return jax.tree.map(lambda leaf: leaf[place], encoded)

    def tokens(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """int32 [b l] for each encoder, by its name."""
        # SD3 cuts and fills for both CLIPs as its first tokenizer says.
        first = next((e for e in self.encoders.values() if isinstance(e.module, TextEncoder)), None)
        length = first.tokenizer.length if self.style == "sd3" and first is not None else None
        return {
            name: encoder.ids(prompts, length if isinstance(encoder.module, TextEncoder) else T5_TOKENS)
            for name, encoder in self.encoders.items()
        }

    def encode(self, tokens: Mapping[str, np.ndarray]) -> Conditioning:
        """The Conditioning of tokens [b l], in batches of one compiled shape (of one row by itself, of another)."""
        n = len(next(iter(tokens.values())))
        size = 1 if n == 1 else BATCH
        parts = []
        for begin in range(0, n, size):
            place = np.minimum(np.arange(begin, begin + size), n - 1)
            part = self._encode({name: ids[place] for name, ids in tokens.items()})
            parts.append(jax.tree.map(lambda leaf, kept=n - begin: leaf[:kept], part))
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def with_params(self, params: Mapping[str, Any]) -> TextConditioner:
        """The same with other parameters of the encoders, by their names."""
        encoders = {name: encoder._replace(params=params[name]) for name, encoder in self.encoders.items()}
        return dataclasses.replace(self, encoders=encoders)

    def encode_by(self, params: Mapping[str, Any], tokens: Mapping[str, Any]) -> Conditioning:
        """The Conditioning of tokens [b l] by other parameters; differentiable, and fine within jit."""
        return self.with_params(params)._encode(tokens)

    def _encode(self, tokens: Mapping[str, Any]) -> Conditioning:
        if self.masked:
            (name, ids), *_ = tokens.items()
            mask = self.mask(name, ids)
            return Conditioning(context=self.encoders[name].run(ids, mask).tokens, context_mask=jnp.asarray(mask))
        found = {name: self.encoders[name].run(ids) for name, ids in tokens.items()}
        if self.style == "tokens":
            return Conditioning(context=next(iter(found.values())).tokens)
        clips = [found[name] for name, e in self.encoders.items() if isinstance(e.module, TextEncoder)]
        context = jnp.concatenate([encoding.penultimate for encoding in clips], axis=-1)
        if self.style == "sdxl":
            return Conditioning(context=context, pooled=clips[-1].pooled)
        context = jnp.pad(context, ((0, 0), (0, 0), (0, self.context_dim - context.shape[-1])))
        third = jnp.zeros((len(context), T5_TOKENS, self.context_dim), context.dtype)
        for name, encoder in self.encoders.items():
            third = third if isinstance(encoder.module, TextEncoder) else found[name].tokens
        pooled = jnp.concatenate([encoding.pooled for encoding in clips if encoding.pooled is not None], axis=-1)
        return Conditioning(context=jnp.concatenate([context, third], axis=1), pooled=pooled)

    def mask(self, name: str, ids: Any) -> Any:
        """True [b l] where a token of this encoder is not filling."""
        return ids != self.encoders[name].tokenizer.pad_id

    def null(self, cond: Conditioning, negative: Sequence[str] | None) -> Conditioning:
        """What guidance leads away from: negative prompts, an empty text, or zeros like `cond`."""
        if negative is None and self.zero_null:
            return jax.tree.map(jnp.zeros_like, cond)
        return self([""] if negative is None else negative)

    @functools.cached_property
    def nothing(self) -> Mapping[str, np.ndarray]:
        """The arrays of no prompt at all, [1 ...]; computed once, on the host, also while something is traced."""
        with jax.ensure_compile_time_eval():
            empty = self([""])
            zeros = self.zero_null
            return {
                name: np.zeros(leaf.shape, np.float32) if zeros else np.asarray(leaf)
                for name, leaf in empty._asdict().items()
                if leaf is not None
            }
