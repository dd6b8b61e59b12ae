"""MMDiT: the two-stream transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206, figure 2).

Image and text tokens have weights of their own and meet in one attention; SD3.5 adds RMSNorm on queries and keys and
a second attention over image tokens alone in its first blocks.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ldm_jax.errors import InputError
from ldm_jax.models.attention import attention
from ldm_jax.models.blocks import Mlp, rms_norm, standardise
from ldm_jax.models.conditioning import Conditioning
from ldm_jax.models.dit import modulate, sincos_positions
from ldm_jax.models.layers import TimeEmbedding, depth_to_space, space_to_depth

Tokens = Float[Array, "b _ _"]
Heads = Float[Array, "b n heads k"]


@dataclasses.dataclass(frozen=True)
class MMDiTConfig:
    """A text-to-image transformer on latent patches."""

    in_channels: int = 16
    """Channels of z, plus those of cond.image where there is one."""
    out_channels: int = 16
    """Channels of the output."""
    patch: int = 2
    """Side of a token's patch of latents."""
    width: int = 1536
    """Features per token."""
    depth: int = 24
    """Transformer blocks."""
    heads: int = 24
    """Attention heads."""
    context_dim: int = 4096
    """Features of cond.context."""
    pooled_dim: int = 2048
    """Features of cond.pooled."""
    positions: int = 192
    """Side of the table of positions, in tokens; smaller images take its centre."""
    base_size: int = 64
    """The table's positions run from 0 to this when it is made new."""
    qk_norm: bool = False
    """RMSNorm on queries and keys (SD3.5)."""
    dual_layers: tuple[int, ...] = ()
    """Blocks with a second attention over image tokens alone (SD3.5-medium: 0 to 12)."""
    remat: bool = False
    """Recompute each block's activations in the backward pass."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""

    def __post_init__(self) -> None:
        fields = ("in_channels", "out_channels", "patch", "width", "depth", "heads", "context_dim", "pooled_dim")
        for field in (*fields, "positions", "base_size"):
            if getattr(self, field) < 1:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be at least 1")
        if self.width % self.heads or self.width % 4:
            raise InputError(f"denoiser.width: {self.width} must be a multiple of 4 and of heads ({self.heads})")
        if not all(0 <= layer < self.depth for layer in self.dual_layers):
            raise InputError(f"denoiser.dual_layers: {self.dual_layers} must be below depth ({self.depth})")


class Stream(nn.Module):
    """One stream's share of a block: its modulation, its queries, keys and values, and what follows the attention."""

    config: MMDiTConfig
    dual: bool = False
    keys_only: bool = False
    """The last block's text stream: it is seen, and sees nothing itself."""

    def setup(self) -> None:
        c, dtype, zeros = self.config, jnp.dtype(self.config.dtype), nn.initializers.zeros
        parts = 2 if self.keys_only else 9 if self.dual else 6
        self.modulation = nn.Dense(parts * c.width, dtype=dtype, kernel_init=zeros)
        self.query, self.key, self.value = (nn.Dense(c.width, dtype=dtype) for _ in range(3))
        if c.qk_norm:
            self.q_norm, self.k_norm = (nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32) for _ in range(2))
        if not self.keys_only:
            self.out = nn.Dense(c.width, dtype=dtype)
            self.mlp = Mlp(4 * c.width, "gelu_tanh", dtype)
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
            nn.Dense(c.width, dtype=dtype, name=name)(x).reshape(*x.shape[:-1], c.heads, c.width // c.heads)
            for name in ("query", "key", "value")
        )
        if c.qk_norm:
            q, k = rms_norm(q, "q_norm"), rms_norm(k, "k_norm")
        return nn.Dense(c.width, dtype=dtype, name="out")(attention(q, k, v).reshape(x.shape))


class JointBlock(nn.Module):
    """One block: both streams are modulated, meet in one attention, and go on apart."""

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
    """(z [b h w c], t [b], cond with context and pooled) -> output [b h w out_channels] in float32."""

    config: MMDiTConfig

    def example_inputs(self) -> tuple[Array, Array, Conditioning]:
        """The smallest (z, t, cond) that the network takes; parameters have the same shapes for any size."""
        c = self.config
        z = jnp.zeros((1, c.patch, c.patch, c.in_channels), jnp.float32)
        context, pooled = jnp.zeros((1, 1, c.context_dim), jnp.float32), jnp.zeros((1, c.pooled_dim), jnp.float32)
        return z, jnp.zeros(1, jnp.float32), Conditioning(context=context, pooled=pooled)

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h w c"],
        t: Float[Array, "b"],
        cond: Conditioning = Conditioning(),  # noqa: B008 (an immutable tuple)
    ) -> Float[Array, "b h w out"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if cond.context is None or cond.pooled is None:
            raise InputError("cond.context, cond.pooled: MMDiT needs both")
        if cond.image is not None:
            z = jnp.concatenate([z, cond.image], axis=-1)
        x = space_to_depth(z.astype(dtype), c.patch)
        b, h, w, _ = x.shape
        if max(h, w) > c.positions:
            raise InputError(f"latents: {h}x{w} tokens, MMDiT's table of positions has {c.positions} a side")
        x = nn.Dense(c.width, dtype=dtype, name="patches")(x)
        side = c.positions

        def table(key: Array) -> Array:
            return jnp.asarray(sincos_positions((side, side), c.width, c.base_size)).reshape(side, side, -1)

        top, left = (side - h) // 2, (side - w) // 2
        places = self.param("positions", table)[top : top + h, left : left + w]
        x = (x + places.astype(dtype)[None]).reshape(b, h * w, c.width)

        embedding = TimeEmbedding(c.width, dtype=dtype, name="time")(t)
        pooled = nn.silu(nn.Dense(c.width, dtype=dtype, name="pooled1")(cond.pooled.astype(dtype)))
        embedding = embedding + nn.Dense(c.width, dtype=dtype, name="pooled2")(pooled)
        text = nn.Dense(c.width, dtype=dtype, name="context")(cond.context.astype(dtype))

        mask = None
        if cond.context_mask is not None:
            mask = jnp.concatenate([jnp.ones((b, h * w), bool), cond.context_mask], axis=1)
        block = nn.remat(JointBlock) if c.remat else JointBlock
        for i in range(c.depth):
            joint = block(c, dual=i in c.dual_layers, last=i == c.depth - 1, name=f"block{i}")
            x, text = joint(x, text, embedding, mask)

        zeros = nn.initializers.zeros
        modulation = nn.Dense(2 * c.width, dtype=dtype, kernel_init=zeros, name="modulation")(nn.silu(embedding))
        scale, shift = jnp.split(modulation, 2, axis=-1)
        x = modulate(standardise(x), shift, scale)
        x = nn.Dense(c.out_channels * c.patch**2, dtype=dtype, kernel_init=zeros, name="out")(x)
        return depth_to_space(x.reshape(b, h, w, -1), c.patch).astype(jnp.float32)
