"""MMDiT: the two-stream transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206, figure 2).

Image and text tokens have weights of their own and meet in one attention; SD3.5 adds RMSNorm on queries and keys and
a second attention over image tokens alone in its first blocks.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ldm_jax.errors import InputError
from ldm_jax.models import fitting
from ldm_jax.models.attention import attention
from ldm_jax.models.blocks import Mlp, rms_norm, standardise
from ldm_jax.models.computing import scanned, spans
from ldm_jax.models.conditioning import Conditioning, Time, joined, per_example, received
from ldm_jax.models.dit import check_patches, check_positions, modulate, sincos_positions
from ldm_jax.models.initializers import SMALL, XAVIER, ZEROS
from ldm_jax.models.layers import TimeEmbedding, depth_to_space, space_to_depth

Tokens = Float[Array, "b _ _"]
Heads = Float[Array, "b n heads k"]


@dataclasses.dataclass(frozen=True)
class MMDiTConfig:
    """A text-to-image transformer on latent patches.

    Fields that are open (0 channels, -1 classes or features) are filled in by `fitted` before the network is made.
    """

    in_channels: int = 0
    """Channels of z, plus those of cond.image where there is one; 0: as the latents and the conditions have."""
    out_channels: int = 0
    """Channels of the output; 0: as the latents have."""
    patch: int = 2
    """Side of a token's patch of latents."""
    width: int = 1536
    """Features per token."""
    depth: int = 24
    """Transformer blocks."""
    heads: int = 24
    """Attention heads."""
    context_dim: int = -1
    """Features of cond.context; -1: as the conditions give."""
    pooled_dim: int = -1
    """Features of cond.pooled, embedded beside the time; 0: none; -1: as the conditions give."""
    num_classes: int = 0
    """Classes; label num_classes means 'none'. 0: it embeds no labels; -1: as the data has."""
    time_scale: float = 1000.0
    """t is multiplied by this before its sinusoidal features: 1000 for t in [0, 1], 1 for a t that counts to 1000."""
    positions: int = 0
    """Side of a stored table of positions on two axes, in tokens (192 in SD3); smaller images take its centre.
    0: no table, positions are computed for every size and any number of axes."""
    base_size: int = 0
    """Positions run from 0 to this along every axis (64 in SD3's new table); 0: to its size."""
    qk_norm: bool = False
    """RMSNorm on queries and keys (SD3.5)."""
    dual_layers: tuple[int, ...] = ()
    """Blocks with a second attention over image tokens alone (SD3.5-medium: 0 to 12)."""
    scan: bool = False
    """lax.scan over the blocks that are equal: compiles faster where depth is large, runs slower on CPU."""
    remat: bool = False
    """Recompute each block's activations in the backward pass."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""

    def __post_init__(self) -> None:
        for field in ("patch", "width", "depth", "heads"):
            if getattr(self, field) < 1:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be at least 1")
        for field in ("in_channels", "out_channels", "positions", "base_size"):
            if getattr(self, field) < 0:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be 0 or more")
        for field in ("context_dim", "pooled_dim", "num_classes"):
            if getattr(self, field) < -1:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be -1 or more")
        if self.context_dim == 0:
            raise InputError("denoiser.context_dim: 0 must be -1 or at least 1; DiT is the transformer without tokens")
        if self.width % self.heads:
            raise InputError(f"denoiser.width: {self.width} must be a multiple of heads ({self.heads})")
        if not all(0 <= layer < self.depth for layer in self.dual_layers):
            raise InputError(f"denoiser.dual_layers: {self.dual_layers} must be below depth ({self.depth})")

    def fitted(
        self, latent_channels: int, num_classes: int, image_channels: int = 0, context_dim: int = 0, pooled_dim: int = 0
    ) -> MMDiTConfig:
        """The config with its open fields filled in; InputError names a field that is set to something else.

        latent_channels: of z. num_classes: of the data, 0 for none. image_channels, context_dim, pooled_dim: what the
        conditions give as cond.image, cond.context and cond.pooled; no tokens (context_dim 0) are an InputError.
        """
        if not context_dim:
            raise InputError("denoiser: MMDiT needs a condition that gives tokens; DiT is the transformer without")
        filled = fitting.channels(self, latent_channels, image_channels)
        filled |= fitting.features(self, context_dim=context_dim, pooled_dim=pooled_dim)
        return dataclasses.replace(self, num_classes=fitting.classes(self, num_classes), **filled)


class Stream(nn.Module):
    """One stream's share of a block: its modulation, its queries, keys and values, and what follows the attention."""

    config: MMDiTConfig
    dual: bool = False
    keys_only: bool = False
    """The last block's text stream: it is seen, and sees nothing itself."""

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        parts = 2 if self.keys_only else 9 if self.dual else 6
        self.modulation = nn.Dense(parts * c.width, dtype=dtype, kernel_init=ZEROS)
        self.query, self.key, self.value = (nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER) for _ in range(3))
        if c.qk_norm:
            self.q_norm, self.k_norm = (nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32) for _ in range(2))
        if not self.keys_only:
            self.out = nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER)
            self.mlp = Mlp(4 * c.width, "gelu_tanh", dtype, XAVIER)
        if self.dual:
            self.self_attention = SelfAttention(c)

    def modulations(self, embedding: Float[Array, "b d"]) -> list[Array]:
        """shift, scale, gate of the attention, then of the MLP, then of the second attention; [b d] each."""
        parts = 2 if self.keys_only else 9 if self.dual else 6
        chunks = jnp.split(self.modulation(nn.silu(embedding)), parts, axis=-1)
        # The published last text stream has scale before shift, all the others shift before scale.
        return chunks[::-1] if self.keys_only else chunks

    def project(self, h: Tokens) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values of normalised tokens."""
        c = self.config
        q, k, v = (
            layer(h).reshape(*h.shape[:-1], c.heads, c.width // c.heads) for layer in (self.query, self.key, self.value)
        )
        if c.qk_norm:
            q, k = self.q_norm(q).astype(q.dtype), self.k_norm(k).astype(k.dtype)
        return q, k, v

    def finish(self, x: Tokens, attended: Tokens, modulation: list[Array], normalised: Tokens) -> Tokens:
        """The residuals: attention, second attention where there is one, MLP."""
        _, _, gate1, shift2, scale2, gate2 = modulation[:6]
        x = x + gate1[:, None, :] * self.out(attended)
        if self.dual:
            shift3, scale3, gate3 = modulation[6:]
            x = x + gate3[:, None, :] * self.self_attention(modulate(normalised, shift3, scale3))
        h = modulate(standardise(x), shift2, scale2)
        return x + gate2[:, None, :] * self.mlp(h)


class SelfAttention(nn.Module):
    """The second attention of SD3.5's blocks, over image tokens alone."""

    config: MMDiTConfig

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        q, k, v = (
            nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER, name=name)(x).reshape(*x.shape[:-1], c.heads, -1)
            for name in ("query", "key", "value")
        )
        if c.qk_norm:
            q, k = rms_norm(q, "q_norm"), rms_norm(k, "k_norm")
        return nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER, name="out")(attention(q, k, v).reshape(x.shape))


class JointBlock(nn.Module):
    """One block: both streams are modulated, attend jointly, and have MLPs of their own."""

    config: MMDiTConfig
    dual: bool = False
    last: bool = False

    @nn.compact
    def __call__(
        self, x: Tokens, text: Tokens, embedding: Float[Array, "b d"], mask: Bool[Array, "b n"] | None
    ) -> tuple[Tokens, Tokens]:
        image_stream = Stream(self.config, dual=self.dual, name="image")
        text_stream = Stream(self.config, keys_only=self.last, name="text")
        image_parts, text_parts = image_stream.modulations(embedding), text_stream.modulations(embedding)
        normalised = standardise(x)
        own = image_stream.project(modulate(normalised, *image_parts[:2]))
        other = text_stream.project(modulate(standardise(text), *text_parts[:2]))
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(own, other, strict=True))
        h = attention(q, k, v, mask)
        h = h.reshape(*h.shape[:-2], -1)
        n = x.shape[1]
        if not self.last:
            text = text_stream.finish(text, h[:, n:], text_parts, text)
        return image_stream.finish(x, h[:, :n], image_parts, normalised), text


class MMDiT(nn.Module):
    """(z [b *space c], t [b] or a scalar, cond with context) -> output [b *space out_channels] in float32."""

    config: MMDiTConfig

    def example_inputs(self, rank: int = 2) -> tuple[Array, Array, Conditioning]:
        """The smallest (z, t, cond) of `rank` axes that the network takes; parameters fit every size of that rank."""
        c = self.config
        z = jnp.zeros((1, *(c.patch,) * rank, c.in_channels), jnp.float32)
        cond = Conditioning(
            label=jnp.zeros(1, jnp.int32) if c.num_classes else None,
            context=jnp.zeros((1, 1, c.context_dim), jnp.float32),
            pooled=jnp.zeros((1, c.pooled_dim), jnp.float32) if c.pooled_dim else None,
        )
        return z, jnp.zeros(1, jnp.float32), cond

    def _places(self, space: tuple[int, ...]) -> Float[Array, "1 n d"]:
        """The positions of the tokens on a grid of these sides, in float32."""
        c, side = self.config, self.config.positions
        if not side:
            return jnp.asarray(sincos_positions(space, c.width, c.base_size))[None]
        if len(space) != 2 or max(space) > side:
            sides = "x".join(map(str, space))
            raise InputError(f"latents: {sides} tokens, MMDiT's table of positions has {side} a side on two axes")

        def table(key: Array) -> Array:
            return jnp.asarray(sincos_positions((side, side), c.width, c.base_size)).reshape(side, side, -1)

        (h, w), (top, left) = space, ((side - size) // 2 for size in space)
        # A table, not a weight: no gradient moves it.
        places = lax.stop_gradient(jnp.asarray(self.param("positions", table)))[top : top + h, left : left + w]
        return places.reshape(1, h * w, c.width)

    def _embedding(self, t: Float[Array, "b"], cond: Conditioning) -> Float[Array, "b d"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        embedding = TimeEmbedding(c.width, dtype=dtype, name="time")(t * c.time_scale)
        if c.pooled_dim and cond.pooled is not None:
            pooled = nn.Dense(c.width, dtype=dtype, kernel_init=SMALL, name="pooled1")(cond.pooled.astype(dtype))
            embedding = embedding + nn.Dense(c.width, dtype=dtype, kernel_init=SMALL, name="pooled2")(nn.silu(pooled))
        if c.num_classes:
            table = nn.Embed(c.num_classes + 1, c.width, embedding_init=SMALL, name="label")
            embedding = embedding + table(cond.label).astype(dtype)  # type: ignore[arg-type]
        return embedding

    def _blocks(
        self, x: Tokens, text: Tokens, embedding: Float[Array, "b d"], mask: Bool[Array, "b n"] | None
    ) -> Tokens:
        c = self.config
        cls = nn.remat(JointBlock) if c.remat else JointBlock
        kinds = [(i in c.dual_layers, i == c.depth - 1) for i in range(c.depth)]
        for span in spans(kinds if c.scan else range(c.depth)):
            dual, last = kinds[span.start]
            block = cls(c, dual=dual, last=last, name=span.name)
            x, text = scanned(block, span.length, (x, text), embedding, mask)
        return x

    @nn.compact
    def __call__(
        self, z: Float[Array, "b *space c"], t: Time, cond: Conditioning | None = None
    ) -> Float[Array, "b *space out"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        fitting.closed(c, "MMDiT")
        cond = received(cond, "MMDiT", label=c.num_classes > 0, context=c.context_dim, pooled=c.pooled_dim)
        context = cond.context
        assert context is not None
        z, t = joined(z, cond.image, c.in_channels, "MMDiT"), per_example(t, len(z))
        check_patches(z.shape[1:-1], c.patch)
        x = space_to_depth(z.astype(dtype), c.patch)
        b, *space, _ = x.shape
        check_positions("width", c.width, len(space))
        x = nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER, name="patches")(x).reshape(b, -1, c.width)
        x = x + self._places(tuple(space)).astype(dtype)
        embedding = self._embedding(t, cond)
        text = nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER, name="context")(context.astype(dtype))

        mask = None
        if cond.context_mask is not None:
            mask = jnp.concatenate([jnp.ones(x.shape[:2], bool), cond.context_mask], axis=1)
        x = self._blocks(x, text, embedding, mask)

        modulation = nn.Dense(2 * c.width, dtype=dtype, kernel_init=ZEROS, name="modulation")(nn.silu(embedding))
        scale, shift = jnp.split(modulation, 2, axis=-1)
        x = modulate(standardise(x), shift, scale)
        x = nn.Dense(c.out_channels * c.patch ** len(space), dtype=dtype, kernel_init=ZEROS, name="out")(x)
        return depth_to_space(x.reshape(b, *space, -1), c.patch).astype(jnp.float32)
