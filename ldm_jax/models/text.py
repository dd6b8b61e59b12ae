"""Text encoders: CLIP's (Radford et al. 2021, arXiv 2103.00020) and BERT's (Devlin et al. 2018, arXiv 1810.04805).

One transformer with switches: CLIP is pre-norm and causal and pools the end-of-text token, BERT is post-norm and sees
both ways, LDM's own "BERT" (Rombach et al. 2022, section 4.3.1) is pre-norm and sees both ways.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ldm_jax.errors import InputError
from ldm_jax.models.blocks import TransformerBlock

Tokens = Float[Array, "b _ _"]
Ids = Int[Array, "b l"]
Mask = Bool[Array, "b l"]


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """A transformer over token ids; the defaults are CLIP ViT-L/14's text half, as Stable Diffusion 1 uses it."""

    vocabulary: int = 49408
    """Token ids."""
    positions: int = 77
    """The longest text, in tokens."""
    width: int = 768
    """Features per token."""
    depth: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads."""
    head_dim: int = 0
    """Features per head; 0: width / heads."""
    hidden: int = 3072
    """Hidden features of the MLP."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] = "quick_gelu"
    """The MLP's non-linearity; x sigmoid(1.702 x) is OpenAI's, gelu OpenCLIP's."""
    causal: bool = True
    """A token sees those before it only."""
    norm_first: bool = True
    """Norms before attention and MLP, one at the end (CLIP); False: after each, one on the embeddings (BERT)."""
    qkv_bias: bool = True
    """Biases of queries, keys and values."""
    epsilon: float = 1e-5
    """Epsilon of every LayerNorm."""
    segments: int = 0
    """Rows of BERT's segment table; every token has segment 0."""
    pooling: Literal["none", "end", "first"] = "end"
    """What `pooled` is: nothing, the end-of-text token's state, or tanh(Dense(the first token's state))."""
    end_id: int = 2
    """The end-of-text token; 2 (as in old CLIP configs): the largest id of each text."""
    projection: int = 0
    """Features of `pooled` after a projection without bias (CLIP); 0: none."""
    logits: bool = False
    """A head over the vocabulary that files of LDM's BERT hold; kept for them, not used."""
    pad_id: int = 1
    """The id that fills texts up: the end-of-text token in SD 1, 0 in SD 2 and in SDXL's second encoder."""
    start_id: int = 0
    """The start-of-text token."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""
    remat: bool = False
    """Recompute each block's activations in the backward pass."""

    def __post_init__(self) -> None:
        for field in ("vocabulary", "positions", "width", "depth", "heads", "hidden"):
            if getattr(self, field) < 1:
                raise InputError(f"text_encoder.{field}: {getattr(self, field)} must be at least 1")
        if min(self.head_dim, self.segments, self.projection) < 0:
            raise InputError("text_encoder: head_dim, segments and projection must be 0 or more")
        if not self.head_dim and self.width % self.heads:
            raise InputError(f"text_encoder.width: {self.width} must be a multiple of heads ({self.heads})")


class TextEncoding(NamedTuple):
    """What a text encoder says about a batch of texts."""

    tokens: Tokens
    """The last states, after the final norm: what SD 1 conditions on."""
    penultimate: Tokens
    """The states before the last block, without the final norm: what SDXL conditions on."""
    pooled: Float[Array, "b e"] | None
    """One vector a text, projected where the config says so."""


def in_float32(encoding: TextEncoding) -> TextEncoding:
    """The same in float32, whatever the arithmetic's type was."""
    return jax.tree.map(lambda part: part.astype(jnp.float32), encoding)


class TextEncoder(nn.Module):
    """(ids [b l], mask [b l] or None) -> TextEncoding."""

    config: TextEncoderConfig

    def example_inputs(self) -> tuple[Array]:
        """The smallest (ids,) that the network takes."""
        return (jnp.zeros((1, 1), jnp.int32),)

    def setup(self) -> None:
        c, dtype, init = self.config, jnp.dtype(self.config.dtype), nn.initializers.normal(0.02)
        self.tokens = nn.Embed(c.vocabulary, c.width, embedding_init=init)
        self.places = nn.Embed(c.positions, c.width, embedding_init=init)
        if c.segments:
            self.segment_table = nn.Embed(c.segments, c.width, embedding_init=init)
        self.norm = nn.LayerNorm(c.epsilon, dtype=jnp.float32)
        # `causal`, the fifth argument after the module, is a Python bool.
        cls = nn.remat(TransformerBlock, static_argnums=(5,)) if c.remat else TransformerBlock
        self.blocks = [
            cls(
                c.heads,
                c.head_dim or c.width // c.heads,
                c.hidden,
                c.activation,
                norm_first=c.norm_first,
                qkv_bias=c.qkv_bias,
                epsilon=c.epsilon,
                dtype=dtype,
                name=f"block{i}",
            )
            for i in range(c.depth)
        ]
        if c.pooling == "first":
            self.pooler = nn.Dense(c.width, dtype=dtype)
        if c.projection:
            self.project = nn.Dense(c.projection, use_bias=False, dtype=dtype)
        if c.logits:
            self.logits = nn.Dense(c.vocabulary, dtype=dtype)

    def _normalise(self, x: Tokens) -> Tokens:
        return self.norm(x.astype(jnp.float32)).astype(x.dtype)

    def hidden_states(self, ids: Ids, mask: Mask | None = None) -> tuple[Tokens, ...]:
        """The embeddings and the states after every block, depth + 1 in all, without the final norm."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if ids.shape[1] > c.positions:
            raise InputError(f"ids: {ids.shape[1]} tokens, this encoder takes {c.positions} at most")
        x = self.tokens(ids) + self.places(jnp.arange(ids.shape[1]))[None]
        if c.segments:
            x = x + self.segment_table(jnp.zeros_like(ids))
        x = x.astype(dtype)
        if not c.norm_first:
            x = self._normalise(x)
        states = [x]
        for block in self.blocks:
            x = block(x, mask, None, None, c.causal)
            states.append(x)
        return tuple(states)

    def __call__(self, ids: Ids, mask: Mask | None = None) -> TextEncoding:
        """Encodes token ids; mask is True where a token counts (every one where None)."""
        c = self.config
        states = self.hidden_states(ids, mask)
        tokens = self._normalise(states[-1]) if c.norm_first else states[-1]
        if c.logits and self.is_initializing():
            self.logits(tokens)
        pooled = None
        if c.pooling == "end":
            # argmax takes the first of equals: the first end token, also where texts are filled up with it.
            place = jnp.argmax(ids if c.end_id == 2 else ids == c.end_id, axis=1)
            pooled = jnp.take_along_axis(tokens, place[:, None, None], axis=1)[:, 0]
        elif c.pooling == "first":
            pooled = jnp.tanh(self.pooler(tokens[:, 0]))
        if c.projection and pooled is not None:
            pooled = self.project(pooled)
        return in_float32(TextEncoding(tokens, states[-2], pooled))


def sentence_embedding(tokens: Tokens, mask: Mask) -> Float[Array, "b d"]:
    """The mean of the tokens that count, scaled to length 1, as Sentence-BERT does (arXiv 1908.10084, section 3)."""
    weights = mask.astype(tokens.dtype)[:, :, None]
    mean = (tokens * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1e-9)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
