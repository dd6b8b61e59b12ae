"""Diffusion transformers: DiT with adaLN-Zero and the switches that its successors turned.

Peebles & Xie 2022 (arXiv 2212.09748); RMSNorm, SwiGLU, RoPE and qk-norm as in LightningDiT (Yao et al. 2025,
arXiv 2501.01423, section 4); cross-attention to text between attention and MLP as in PixArt-alpha (Chen et al. 2023,
arXiv 2310.00426, section 2.3), here with normalised queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ldm_jax.errors import InputError
from ldm_jax.models import fitting
from ldm_jax.models.attention import attention
from ldm_jax.models.blocks import rms_norm
from ldm_jax.models.computing import scanned, spans
from ldm_jax.models.conditioning import Conditioning, Time, joined, per_example, received
from ldm_jax.models.initializers import SMALL, XAVIER, ZEROS
from ldm_jax.models.layers import TimeEmbedding, VectorEmbedding, depth_to_space, space_to_depth

Tokens = Float[Array, "b n d"]


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """A transformer on latent patches, unconditional or told of a class, of text or of an image.

    Fields that are open (0 channels, -1 classes or features) are filled in by `fitted` before the network is made.
    """

    in_channels: int = 0
    """Channels of z, plus those of cond.image where there is one; 0: as the latents and the conditions have."""
    out_channels: int = 0
    """Channels of the output; 0: as the latents have."""
    patch: int = 2
    """Side of a token's patch of latents."""
    width: int = 384
    """Features per token."""
    depth: int = 12
    """Transformer blocks."""
    heads: int = 6
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLP, in units of width (SwiGLU takes 2/3 of that, so that parameters stay equal)."""
    num_classes: int = 0
    """Classes; label num_classes means 'none'. 0: it embeds no labels; -1: as the data has."""
    context_dim: int = 0
    """Features of cond.context, which every block attends to; 0: no cross-attention; -1: as the conditions give."""
    pooled_dim: int = 0
    """Features of cond.pooled, embedded beside the time; 0: none; -1: as the conditions give."""
    interval: bool = False
    """Whether it is asked for averages over cond.interval, embedded beside the time, as MeanFlow and shortcuts do."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation before attention and MLP, without learned scale (adaLN has it)."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """The MLP's non-linearity."""
    rope: bool = False
    """Rotary positions in attention, beside the fixed sin-cos ones."""
    qk_norm: bool = False
    """RMSNorm on queries and keys."""
    time_scale: float = 1000.0
    """t is multiplied by this before its sinusoidal features: 1000 for t in [0, 1], 1 for a t that counts to 1000."""
    frequency_shift: float = 0.0
    """Subtracted from the divisor of the sinusoidal features' exponents; 1 in diffusers' DiT."""
    norm_scale: bool = False
    """Learned scales in the norms beside those of adaLN, as LightningDiT's RMSNorm has."""
    mlp_norm_epsilon: float = 1e-6
    """Epsilon of the norm before the MLP; 1e-5 in diffusers' DiT."""
    base_size: int = 0
    """The fixed positions are stretched to a grid of this many tokens a side, as diffusers does; 0: they are not."""
    block_embedders: bool = False
    """Each block embeds time and label by itself, as diffusers' DiT does when trained; the output takes block 0's."""
    scan: bool = False
    """lax.scan over the blocks: compiles faster where depth is large, runs slower on CPU."""
    remat: bool = False
    """Recompute each block's activations in the backward pass."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""

    def __post_init__(self) -> None:
        for field in ("patch", "width", "depth", "heads"):
            if getattr(self, field) < 1:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be at least 1")
        if min(self.in_channels, self.out_channels) < 0:
            raise InputError("denoiser: in_channels and out_channels must be 0 or more")
        for field in ("num_classes", "context_dim", "pooled_dim"):
            if getattr(self, field) < -1:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be -1 or more")
        if self.width % self.heads:
            raise InputError(f"denoiser.width: {self.width} must be a multiple of heads ({self.heads})")
        if self.scan and self.block_embedders:
            raise InputError("denoiser.scan: it doesn't go with block_embedders")

    def fitted(
        self, latent_channels: int, num_classes: int, image_channels: int = 0, context_dim: int = 0, pooled_dim: int = 0
    ) -> DiTConfig:
        """The config with its open fields filled in; InputError names a field that is set to something else.

        latent_channels: of z. num_classes: of the data, 0 for none. image_channels, context_dim, pooled_dim: what the
        conditions give as cond.image, cond.context and cond.pooled, 0 for none.
        """
        given = {"context_dim": context_dim, "pooled_dim": pooled_dim}
        filled = fitting.channels(self, latent_channels, image_channels) | fitting.features(self, **given)
        config = dataclasses.replace(self, num_classes=fitting.classes(self, num_classes), **filled)
        fitting.heard(config, given)
        return config


def check_positions(field: str, features: int, rank: int) -> None:
    """InputError where `features` can't be shared among the sines and cosines of `rank` axes.

    One or two axes share them all; of three or more each gets as many as the others, and the rest stay 0.
    """
    step = 2 * rank if rank < 3 else 2
    if features % step or features < 2 * rank:
        least = f", at least {2 * rank}" if rank > 2 else ""
        raise InputError(f"denoiser.{field}: {features} must be a multiple of {step}{least} (positions on {rank} axes)")


def check_patches(space: Sequence[int], patch: int) -> None:
    """InputError where latents of these sides don't divide into patches."""
    if any(side % patch for side in space):
        raise InputError(f"latents: {'x'.join(map(str, space))} must be multiples of patch ({patch})")


def sincos_positions(space: tuple[int, ...], dim: int, base: int = 0) -> np.ndarray:
    """Fixed positions [prod(space), dim]: an equal share of dim for each axis, half sine and half cosine.

    The last axis comes first, as in the original DiT (and MAE). base: every axis runs from 0 to base; 0: to its size.
    """
    share = dim // len(space) // 2 * 2
    frequencies = 10_000.0 ** (-np.arange(share // 2) / (share / 2))
    axes = np.meshgrid(*(np.arange(size) * (base / size if base else 1.0) for size in space), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in reversed(axes)]
    table = np.concatenate([np.concatenate([np.sin(a), np.cos(a)], axis=1) for a in angles], axis=1)
    return np.pad(table, ((0, 0), (0, dim - table.shape[1]))).astype(np.float32)


def rope_angles(space: tuple[int, ...], dim: int) -> np.ndarray:
    """Rotation angles [prod(space), dim / 2], an equal share of pairs for each axis (Su et al. 2021, 2104.09864)."""
    share = dim // 2 // len(space)
    frequencies = 10_000.0 ** (-np.arange(share) / share)
    axes = np.meshgrid(*(np.arange(size) for size in space), indexing="ij")
    table = np.concatenate([axis.reshape(-1, 1) * frequencies for axis in axes], axis=1)
    return np.pad(table, ((0, 0), (0, dim // 2 - table.shape[1]))).astype(np.float32)


def rotate(x: Float[Array, "b n heads d"], angles: Float[Array, "n half"]) -> Float[Array, "b n heads d"]:
    """Turns neighbouring pairs of features by the angles (ibid., eq. 34)."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    first, second = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def modulate(x: Tokens, shift: Float[Array, "b d"], scale: Float[Array, "b d"]) -> Tokens:
    """x (1 + scale) + shift, per example."""
    return x * (1 + scale[:, None, :]) + shift[:, None, :]


class Norm(nn.Module):
    """LayerNorm or RMSNorm in float32, without parameters unless the config wants scales."""

    config: DiTConfig
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        kwargs = {"epsilon": self.epsilon, "use_scale": self.config.norm_scale, "dtype": jnp.float32, "name": "norm"}
        norm = nn.RMSNorm(**kwargs) if self.config.norm == "rms" else nn.LayerNorm(use_bias=False, **kwargs)
        return norm(x.astype(jnp.float32)).astype(x.dtype)


class CrossAttention(nn.Module):
    """Attention of x to a condition's tokens; it starts at 0, as if there were none."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Tokens, context: Float[Array, "b l e"], mask: Bool[Array, "b l"] | None) -> Tokens:
        c, dtype = self.config, jnp.dtype(self.config.dtype)

        def project(source: Tokens, name: str) -> Float[Array, "b k heads f"]:
            h = nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER, name=name)(source)
            return h.reshape(*h.shape[:-1], c.heads, c.width // c.heads)

        q, k, v = project(x, "query"), project(context, "key"), project(context, "value")
        if c.qk_norm:
            q, k = rms_norm(q, "q_norm"), rms_norm(k, "k_norm")
        h = attention(q, k, v, mask).reshape(x.shape)
        return nn.Dense(c.width, dtype=dtype, kernel_init=ZEROS, name="out")(h)


class Block(nn.Module):
    """One adaLN-Zero block: modulated attention and MLP with gated residuals (DiT, figure 3)."""

    config: DiTConfig

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        embedding: Float[Array, "b d"],
        angles: Float[Array, "n half"] | None,
        context: Float[Array, "b l e"] | None = None,
        mask: Bool[Array, "b l"] | None = None,
    ) -> Tokens:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        modulation = nn.Dense(6 * c.width, dtype=dtype, kernel_init=ZEROS, name="modulation")(nn.silu(embedding))
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)

        h = modulate(Norm(c, name="norm1")(x), shift1, scale1)
        qkv = nn.Dense(3 * c.width, dtype=dtype, kernel_init=XAVIER, name="qkv")(h)
        q, k, v = jnp.split(qkv.reshape(*h.shape[:-1], 3 * c.heads, c.width // c.heads), 3, axis=-2)
        if c.qk_norm:
            q, k = rms_norm(q, "q_norm"), rms_norm(k, "k_norm")
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        h = nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER, name="out")(attention(q, k, v).reshape(h.shape))
        x = x + gate1[:, None, :] * h
        if context is not None:
            x = x + CrossAttention(c, name="cross")(Norm(c, name="norm_cross")(x), context, mask)

        h = modulate(Norm(c, c.mlp_norm_epsilon, name="norm2")(x), shift2, scale2)
        if c.mlp == "swiglu":
            hidden = int(c.width * c.mlp_ratio * 2 / 3)
            gate, up = jnp.split(nn.Dense(2 * hidden, dtype=dtype, kernel_init=XAVIER, name="mlp_in")(h), 2, axis=-1)
            h = nn.silu(gate) * up
        else:
            hidden = int(c.width * c.mlp_ratio)
            h = nn.gelu(nn.Dense(hidden, dtype=dtype, kernel_init=XAVIER, name="mlp_in")(h), approximate=True)
        h = nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER, name="mlp_out")(h)
        return x + gate2[:, None, :] * h


class DiT(nn.Module):
    """(z [b *space c], t [b] or a scalar, cond) -> output [b *space out_channels] in float32."""

    config: DiTConfig

    def example_inputs(self, rank: int = 2) -> tuple[Array, Array, Conditioning]:
        """The smallest (z, t, cond) of `rank` axes that the network takes; parameters fit every size of that rank."""
        c = self.config
        cond = Conditioning(
            label=jnp.zeros(1, jnp.int32) if c.num_classes else None,
            context=jnp.zeros((1, 1, c.context_dim), jnp.float32) if c.context_dim else None,
            pooled=jnp.zeros((1, c.pooled_dim), jnp.float32) if c.pooled_dim else None,
        )
        z = jnp.zeros((1, *(c.patch,) * rank, c.in_channels), jnp.float32)
        return z, jnp.zeros(1, jnp.float32), cond

    def _embedding(self, t: Float[Array, "b"], cond: Conditioning, suffix: str = "") -> Float[Array, "b d"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        time = TimeEmbedding(c.width, dtype=dtype, shift=c.frequency_shift, name=f"time{suffix}")
        embedding = time(t * c.time_scale)
        if c.interval:
            length = jnp.zeros_like(t) if cond.interval is None else per_example(cond.interval, len(t))
            shared = {"dtype": dtype, "shift": c.frequency_shift}
            embedding = embedding + TimeEmbedding(c.width, **shared, name=f"interval{suffix}")(length * c.time_scale)
        if c.num_classes:
            table = nn.Embed(c.num_classes + 1, c.width, embedding_init=SMALL, name=f"label{suffix}")
            embedding = embedding + table(cond.label).astype(dtype)  # type: ignore[arg-type]
        if c.pooled_dim and cond.pooled is not None:
            embedding = embedding + VectorEmbedding(c.width, dtype, name=f"pooled{suffix}")(cond.pooled)
        return embedding

    @nn.compact
    def __call__(
        self, z: Float[Array, "b *space c"], t: Time, cond: Conditioning | None = None
    ) -> Float[Array, "b *space out"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        fitting.closed(c, "DiT")
        cond = received(cond, "DiT", label=c.num_classes > 0, context=c.context_dim, pooled=c.pooled_dim)
        z, t = joined(z, cond.image, c.in_channels, "DiT"), per_example(t, len(z))
        check_patches(z.shape[1:-1], c.patch)
        x = space_to_depth(z.astype(dtype), c.patch)
        b, *space, _ = x.shape
        check_positions("width", c.width, len(space))
        x = nn.Dense(c.width, dtype=dtype, kernel_init=XAVIER, name="patches")(x)
        x = x.reshape(b, -1, c.width) + jnp.asarray(sincos_positions(tuple(space), c.width, c.base_size), dtype)[None]

        suffixes = [str(i) for i in range(c.depth)] if c.block_embedders else [""]
        embeddings = [self._embedding(t, cond, suffix) for suffix in suffixes] * (c.depth // len(suffixes))
        embedding = embeddings[0]

        angles = None
        if c.rope:
            check_positions("rope: width / heads", c.width // c.heads, len(space))
            angles = jnp.asarray(rope_angles(tuple(space), c.width // c.heads))
        context, mask = (cond.context, cond.context_mask) if c.context_dim else (None, None)
        block = nn.remat(Block) if c.remat else Block
        for span in spans([0] * c.depth if c.scan else range(c.depth)):
            shared = embeddings[span.start], angles, context, mask
            (x,) = scanned(block(c, name=span.name), span.length, (x,), *shared)

        modulation = nn.Dense(2 * c.width, dtype=dtype, kernel_init=ZEROS, name="modulation")(nn.silu(embedding))
        shift, scale = jnp.split(modulation, 2, axis=-1)
        x = modulate(Norm(c, name="norm")(x), shift, scale)
        x = nn.Dense(c.out_channels * c.patch ** len(space), dtype=dtype, kernel_init=ZEROS, name="out")(x)
        return depth_to_space(x.reshape(b, *space, -1), c.patch).astype(jnp.float32)
