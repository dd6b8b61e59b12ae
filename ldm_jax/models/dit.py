"""Diffusion transformers: DiT with adaLN-Zero and the switches that its successors turned.

Peebles & Xie 2022 (arXiv 2212.09748); RMSNorm, SwiGLU, RoPE and qk-norm as in LightningDiT (Yao et al. 2025,
arXiv 2501.01423, section 4).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.errors import InputError
from ldm_jax.models.attention import attention
from ldm_jax.models.conditioning import Conditioning
from ldm_jax.models.layers import TimeEmbedding, depth_to_space, space_to_depth

Tokens = Float[Array, "b n d"]


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """A class-conditional (or unconditional) transformer on latent patches."""

    in_channels: int = 0
    """Channels of z, plus those of cond.image where there is one; 0: as the latents have (filled in by training)."""
    out_channels: int = 0
    """Channels of the output; 0: as the latents have (filled in by training)."""
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
    """Classes; label num_classes means 'none'. 0: unconditional; -1: as the data has (filled in by training)."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation before attention and MLP, without learned scale (adaLN has it)."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """The MLP's non-linearity."""
    rope: bool = False
    """Rotary positions in attention, beside the fixed sin-cos ones."""
    qk_norm: bool = False
    """RMSNorm on queries and keys."""
    time_scale: float = 1000.0
    """t is multiplied by this before its sinusoidal features."""
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
        if min(self.in_channels, self.out_channels) < 0 or self.num_classes < -1:
            raise InputError("denoiser: in_channels and out_channels must be 0 or more, num_classes -1 or more")
        if self.width % self.heads:
            raise InputError(f"denoiser.width: {self.width} must be a multiple of heads ({self.heads})")
        if self.width % 4:
            raise InputError(f"denoiser.width: {self.width} must be a multiple of 4 (sin-cos positions of two axes)")
        if self.rope and self.width // self.heads % 4:
            raise InputError(f"denoiser.rope: width / heads = {self.width // self.heads} must be a multiple of 4")
        if self.scan and self.block_embedders:
            raise InputError("denoiser.scan: it doesn't go with block_embedders")

    def fitted(self, *, latent_channels: int, num_classes: int = 0, image_channels: int = 0) -> DiTConfig:
        """This config with its open fields filled in; InputError where a field contradicts.

        latent_channels: of z; num_classes: of the data; image_channels: of what conditions join to z.
        """
        return dataclasses.replace(
            self,
            in_channels=filled("in_channels", self.in_channels, latent_channels + image_channels),
            out_channels=filled("out_channels", self.out_channels, latent_channels),
            num_classes=filled("num_classes", max(self.num_classes, 0), num_classes),
        )


def filled(field: str, asked: int, known: int) -> int:
    """What is known, where nothing else was asked for; InputError otherwise."""
    if asked not in (0, known):
        raise InputError(f"denoiser.{field}: {asked} must be 0 or {known}, as latents, conditions and data have it")
    return known


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


class Block(nn.Module):
    """One adaLN-Zero block: modulated attention and MLP with gated residuals (DiT, figure 3)."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Tokens, embedding: Float[Array, "b d"], angles: Float[Array, "n half"] | None) -> Tokens:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        xavier, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros
        modulation = nn.Dense(6 * c.width, dtype=dtype, kernel_init=zeros, name="modulation")(nn.silu(embedding))
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)

        h = modulate(Norm(c, name="norm1")(x), shift1, scale1)
        qkv = nn.Dense(3 * c.width, dtype=dtype, kernel_init=xavier, name="qkv")(h)
        q, k, v = jnp.split(qkv.reshape(*h.shape[:-1], 3 * c.heads, c.width // c.heads), 3, axis=-2)
        if c.qk_norm:
            q = nn.RMSNorm(epsilon=1e-6, dtype=dtype, name="q_norm")(q)
            k = nn.RMSNorm(epsilon=1e-6, dtype=dtype, name="k_norm")(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        h = nn.Dense(c.width, dtype=dtype, kernel_init=xavier, name="out")(attention(q, k, v).reshape(h.shape))
        x = x + gate1[:, None, :] * h

        h = modulate(Norm(c, c.mlp_norm_epsilon, name="norm2")(x), shift2, scale2)
        if c.mlp == "swiglu":
            hidden = int(c.width * c.mlp_ratio * 2 / 3)
            gate, up = jnp.split(nn.Dense(2 * hidden, dtype=dtype, kernel_init=xavier, name="mlp_in")(h), 2, axis=-1)
            h = nn.silu(gate) * up
        else:
            hidden = int(c.width * c.mlp_ratio)
            h = nn.gelu(nn.Dense(hidden, dtype=dtype, kernel_init=xavier, name="mlp_in")(h), approximate=True)
        h = nn.Dense(c.width, dtype=dtype, kernel_init=xavier, name="mlp_out")(h)
        return x + gate2[:, None, :] * h


class DiT(nn.Module):
    """(z [b *space c], t [b], cond) -> output [b *space out_channels] in float32."""

    config: DiTConfig

    def example_inputs(self, rank: int = 2) -> tuple[Array, Array, Conditioning]:
        """The smallest (z, t, cond) that the network takes; parameters have the same shapes for any size."""
        label = jnp.zeros(1, jnp.int32) if self.config.num_classes else None
        z = jnp.zeros((1, *(self.config.patch,) * rank, self.config.in_channels))
        return z, jnp.zeros(1), Conditioning(label=label)

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b *space c"],
        t: Float[Array, "b"],
        cond: Conditioning = Conditioning(),  # noqa: B008 (an immutable tuple)
    ) -> Float[Array, "b *space out"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if cond.image is not None:
            z = jnp.concatenate([z, cond.image], axis=-1)
        x = space_to_depth(z.astype(dtype), c.patch)
        b, *space, _ = x.shape
        x = nn.Dense(c.width, dtype=dtype, kernel_init=nn.initializers.xavier_uniform(), name="patches")(x)
        x = x.reshape(b, -1, c.width) + jnp.asarray(sincos_positions(tuple(space), c.width, c.base_size), dtype)[None]

        def embed(suffix: str) -> Float[Array, "b d"]:
            time = TimeEmbedding(c.width, dtype=dtype, shift=c.frequency_shift, name=f"time{suffix}")
            embedding = time(t * c.time_scale)
            if c.num_classes and cond.label is not None:
                init = nn.initializers.normal(0.02)
                table = nn.Embed(c.num_classes + 1, c.width, embedding_init=init, name=f"label{suffix}")
                embedding = embedding + table(cond.label).astype(dtype)
            return embedding

        embeddings = [embed(str(i)) for i in range(c.depth)] if c.block_embedders else [embed("")] * c.depth
        embedding = embeddings[0]

        angles = jnp.asarray(rope_angles(tuple(space), c.width // c.heads)) if c.rope else None
        block = nn.remat(Block) if c.remat else Block
        if c.scan:
            stack = nn.scan(
                lambda block, x, embedding, angles: (block(x, embedding, angles), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType] (flax types it as int)
                length=c.depth,
            )
            x, _ = stack(block(c, name="blocks"), x, embedding, angles)
        else:
            for i in range(c.depth):
                x = block(c, name=f"block{i}")(x, embeddings[i], angles)

        zeros = nn.initializers.zeros
        modulation = nn.Dense(2 * c.width, dtype=dtype, kernel_init=zeros, name="modulation")(nn.silu(embedding))
        shift, scale = jnp.split(modulation, 2, axis=-1)
        x = modulate(Norm(c, name="norm")(x), shift, scale)
        x = nn.Dense(c.out_channels * c.patch ** len(space), dtype=dtype, kernel_init=zeros, name="out")(x)
        return depth_to_space(x.reshape(b, *space, -1), c.patch).astype(jnp.float32)
