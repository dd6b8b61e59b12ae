"""T5's encoder, version 1.1: the third text encoder of SD3 (Raffel et al. 2020, arXiv 1910.10683, section 2.1).

RMSNorm before attention and MLP, no biases, logits that are not scaled but get a bias for each distance, which the
blocks share; the MLP is gated by gelu (Shazeer 2020, arXiv 2002.05202).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ldm_jax.errors import InputError
from ldm_jax.models.text import TextEncoding, in_float32

Tokens = Float[Array, "b _ _"]
Bias = Float[Array, "_ heads _ _"]


@dataclasses.dataclass(frozen=True)
class T5Config:
    """T5 v1.1's encoder; the defaults are those of XXL, as SD3 uses it."""

    vocabulary: int = 32128
    """Token ids."""
    width: int = 4096
    """Features per token."""
    depth: int = 24
    """Transformer blocks."""
    heads: int = 64
    """Attention heads."""
    head_dim: int = 64
    """Features per head."""
    hidden: int = 10240
    """Hidden features of the MLP."""
    buckets: int = 32
    """Biases of the logits, half for the keys before a query and half for those after it."""
    farthest: int = 128
    """The distance from which on all share one bias."""
    epsilon: float = 1e-6
    """Epsilon of every RMSNorm."""
    pad_id: int = 0
    """The id that fills texts up."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""
    remat: bool = False
    """Recompute each block's activations in the backward pass."""

    def __post_init__(self) -> None:
        for field in ("vocabulary", "width", "depth", "heads", "head_dim", "hidden", "farthest"):
            if getattr(self, field) < 1:
                raise InputError(f"text_encoder.{field}: {getattr(self, field)} must be at least 1")
        if self.buckets < 4 or self.buckets % 4 or self.farthest <= self.buckets // 4:
            raise InputError(f"text_encoder.buckets: {self.buckets} must be a multiple of 4, less than 4 farthest")


def bucket(distance: Int[np.ndarray, "..."], buckets: int, farthest: int) -> Int[np.ndarray, "..."]:
    """The bias that a key at `distance` from its query gets: one each for the near ones, then by logarithm."""
    half, near = buckets // 2, buckets // 4
    size = np.abs(distance)
    scale = (half - near) / np.log(np.float32(farthest / near))
    far = near + (np.log(np.maximum(size, 1).astype(np.float32) / near) * scale).astype(np.int64)
    return np.where(distance > 0, half, 0) + np.where(size < near, size, np.minimum(far, half - 1))


class T5Block(nn.Module):
    """Self-attention and gated MLP, each with a norm before and a residual around it."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Tokens, bias: Bias, mask: Bool[Array, "b 1 1 l"] | None) -> Tokens:
        c, dtype = self.config, jnp.dtype(self.config.dtype)

        def dense(features: int, name: str, h: Tokens) -> Tokens:
            return nn.Dense(features, use_bias=False, dtype=dtype, name=name)(h)

        def norm(name: str) -> Tokens:
            return nn.RMSNorm(c.epsilon, dtype=jnp.float32, name=name)(x.astype(jnp.float32)).astype(dtype)

        h = norm("norm1")
        q, k, v = (dense(c.heads * c.head_dim, name, h) for name in ("query", "key", "value"))
        q, k, v = (part.reshape(*h.shape[:-1], c.heads, c.head_dim) for part in (q, k, v))
        # T5's logits are not scaled.
        with jax.numpy_dtype_promotion("standard"):  # JAX's own code mixes its types in bfloat16.
            h = jax.nn.dot_product_attention(q, k, v, bias, mask, scale=1.0)
        x = x + dense(c.width, "out", h.reshape(*h.shape[:-2], -1))
        h = norm("norm2")
        h = nn.gelu(dense(c.hidden, "gate", h), approximate=True) * dense(c.hidden, "in", h)
        return x + dense(c.width, "down", h)


class T5Encoder(nn.Module):
    """(ids [b l], mask [b l] or None) -> TextEncoding without a pooled vector."""

    config: T5Config

    def example_inputs(self) -> tuple[Array]:
        """The smallest (ids,) that the network takes."""
        return (jnp.zeros((1, 1), jnp.int32),)

    def setup(self) -> None:
        c = self.config
        self.tokens = nn.Embed(c.vocabulary, c.width, embedding_init=nn.initializers.normal(1.0))
        self.distances = nn.Embed(c.buckets, c.heads, embedding_init=nn.initializers.normal(1.0 / math.sqrt(c.width)))
        cls = nn.remat(T5Block) if c.remat else T5Block
        self.blocks = [cls(c, name=f"block{i}") for i in range(c.depth)]
        self.norm = nn.RMSNorm(c.epsilon, dtype=jnp.float32)

    def hidden_states(self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"] | None = None) -> tuple[Tokens, ...]:
        """The embeddings and the states after every block, depth + 1 in all, without the final norm."""
        c, place = self.config, np.arange(ids.shape[1])
        table = bucket(place[None] - place[:, None], c.buckets, c.farthest)
        bias = self.distances(jnp.asarray(table)).transpose(2, 0, 1)[None]
        bias, counts = bias.astype(jnp.dtype(c.dtype)), None if mask is None else mask[:, None, None, :]
        states = [self.tokens(ids).astype(jnp.dtype(c.dtype))]
        for block in self.blocks:
            states.append(block(states[-1], bias, counts))
        return tuple(states)

    def __call__(self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"] | None = None) -> TextEncoding:
        """Encodes token ids; mask is True where a token counts (every one where None)."""
        states = self.hidden_states(ids, mask)
        tokens = self.norm(states[-1].astype(jnp.float32)).astype(states[-1].dtype)
        return in_float32(TextEncoding(tokens, states[-2], None))
