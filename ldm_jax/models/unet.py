"""UNets: that of LDM (Rombach et al. 2022, arXiv 2112.10752) and those of Stable Diffusion, SDXL included.

ResNet blocks and skip connections of DDPM (Ho et al. 2020, arXiv 2006.11239, appendix B) and ADM (Dhariwal & Nichol
2021, arXiv 2105.05233); spatial transformers of LDM's section 3.3; size and crop conditioning of SDXL (Podell et al.
2023, arXiv 2307.01952, section 2.2).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ldm_jax.errors import InputError
from ldm_jax.models.blocks import TransformerBlock
from ldm_jax.models.conditioning import Conditioning
from ldm_jax.models.dit import filled
from ldm_jax.models.layers import (
    Downsample,
    GroupNorm,
    ResBlock,
    SpatialAttention,
    TimeEmbedding,
    Upsample,
    conv,
    sinusoidal,
)

Features = Float[Array, "b ... _"]


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """A UNet with one entry of channels, attention and heads for each resolution."""

    in_channels: int = 4
    """Channels of z, plus those of cond.image where there is one; training fills in those of the latents."""
    out_channels: int = 4
    """Channels of the output; training fills in those of the latents."""
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Width at each resolution; every entry after the first halves the resolution."""
    blocks: int = 2
    """ResNet blocks per resolution on the way down; one more on the way up."""
    attention: tuple[int, ...] = (1, 1, 1, 0)
    """Transformer blocks after each ResNet block, per resolution; 0 for none."""
    mid_attention: int = 1
    """Transformer blocks in the middle."""
    heads: tuple[int, ...] = (8, 8, 8, 8)
    """Attention heads per resolution."""
    context_dim: int = 768
    """Features of cond.context; 0: plain self-attention layers instead of transformer blocks."""
    class_rows: int = 0
    """Rows of the table that embeds cond.label (classes, or noise levels of an upscaler); 0 for none."""
    num_classes: int = 0
    """Classes; the last of class_rows then means 'none'. 0: none; -1: as the data has (filled in by training)."""
    time_scale: float = 1.0
    """t is multiplied by this first: 1 for published networks, whose t counts to 1000; training fills in 1000."""
    added_dim: int = 0
    """Features of cond.pooled and the embedded cond.time_ids together (SDXL); 0 for none."""
    time_ids_dim: int = 256
    """Sinusoidal features of each entry of cond.time_ids."""
    groups: int = 32
    """Groups of every GroupNorm."""
    epsilon: float = 1e-5
    """Epsilon of the ResNet blocks' norms; the transformers' input norms have 1e-6 always."""
    frequency_shift: float = 0.0
    """Subtracted from the divisor of the time features' exponents."""
    sine_first: bool = False
    """Time features are [sin, cos] instead of [cos, sin]."""
    linear_projection: bool = False
    """Published files hold the transformers' projections as matrices, not as 1x1 convolutions; same arithmetic."""
    upcast_attention: bool = False
    """Published configs (SD 2.1) ask for float32 logits; attention here has them always."""
    remat: bool = False
    """Recompute each ResNet and transformer block's activations in the backward pass."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""

    def __post_init__(self) -> None:
        levels = len(self.channels)
        if levels < 1 or len(self.attention) != levels or len(self.heads) != levels:
            raise InputError(
                f"denoiser.channels: {self.channels} must have as many entries as attention {self.attention} "
                f"and heads {self.heads}"
            )
        for field in ("in_channels", "out_channels", "blocks", "groups", "time_ids_dim"):
            if getattr(self, field) < 1:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be at least 1")
        if min(self.mid_attention, self.context_dim, self.class_rows, self.added_dim, *self.attention) < 0:
            raise InputError("denoiser: attention, mid_attention, context_dim, class_rows, added_dim must be 0 or more")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels < 1 or heads < 1 or channels % self.groups or channels % heads:
                raise InputError(
                    f"denoiser.channels: {channels} must be a multiple of groups ({self.groups}) and heads ({heads})"
                )
        if self.num_classes < -1 or (self.num_classes > 0 and self.class_rows != self.num_classes + 1):
            rows = f"one less than class_rows ({self.class_rows})"
            raise InputError(f"denoiser.num_classes: {self.num_classes} must be -1, 0 or {rows}")
        if self.context_dim == 0 and max(self.mid_attention, *self.attention) > 1:
            raise InputError("denoiser.attention: plain self-attention (context_dim 0) is 0 or 1 deep")

    def fitted(self, *, latent_channels: int, num_classes: int = 0, image_channels: int = 0) -> UNetConfig:
        """This config with its open fields filled in; see `DiTConfig.fitted`."""
        rows = num_classes + 1 if num_classes else 0
        return dataclasses.replace(
            self,
            in_channels=latent_channels + image_channels,
            out_channels=latent_channels,
            num_classes=filled("num_classes", max(self.num_classes, 0), num_classes),
            class_rows=filled("class_rows", self.class_rows, rows),
            time_scale=1000.0,
        )


class SpatialTransformer(nn.Module):
    """GroupNorm, projection, transformer blocks over all positions, projection, residual (LDM, appendix E.2.1)."""

    heads: int
    depth: int
    groups: int
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Features, context: Float[Array, "b l d"] | None, mask: Bool[Array, "b l"] | None) -> Features:
        b, *_, c = x.shape
        h = GroupNorm(self.groups, 1e-6, self.dtype, name="norm")(x).reshape(b, -1, c)
        h = nn.Dense(c, dtype=self.dtype, name="in")(h)
        cls = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        for i in range(self.depth):
            block = cls(
                self.heads,
                c // self.heads,
                hidden=4 * c,
                activation="geglu",
                cross=True,
                qkv_bias=False,
                dtype=self.dtype,
                name=f"block{i}",
            )
            h = block(h, None, context, mask)
        return x + nn.Dense(c, dtype=self.dtype, name="out")(h).reshape(x.shape)


class UNet(nn.Module):
    """(z [b *space c], t [b], cond) -> output [b *space out_channels] in float32."""

    config: UNetConfig

    def example_inputs(self, rank: int = 2) -> tuple[Array, Array, Conditioning]:
        """A small (z, t, cond) that the network takes; parameters have the same shapes for any size."""
        c = self.config
        side = 2 ** (len(c.channels) - 1)
        ids = 6 if c.added_dim > 6 * c.time_ids_dim else 1
        cond = Conditioning(
            label=jnp.zeros(1, jnp.int32) if c.class_rows else None,
            context=jnp.zeros((1, 1, c.context_dim), jnp.float32) if c.context_dim else None,
            pooled=jnp.zeros((1, c.added_dim - ids * c.time_ids_dim), jnp.float32) if c.added_dim else None,
            time_ids=jnp.zeros((1, ids), jnp.float32) if c.added_dim else None,
        )
        return jnp.zeros((1, *(side,) * rank, c.in_channels), jnp.float32), jnp.zeros(1, jnp.float32), cond

    def _embedding(self, t: Float[Array, "b"], cond: Conditioning) -> Float[Array, "b e"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        width = 4 * c.channels[0]
        time = TimeEmbedding(width, c.channels[0], dtype, c.frequency_shift, c.sine_first, name="time")
        embedding = time(t * c.time_scale)
        if c.class_rows:
            if cond.label is None:
                raise InputError("cond.label: this UNet embeds labels; give one an example")
            embedding = embedding + nn.Embed(c.class_rows, width, name="label")(cond.label).astype(dtype)
        if c.added_dim:
            if cond.pooled is None or cond.time_ids is None:
                raise InputError("cond.pooled, cond.time_ids: this UNet needs both")
            b = t.shape[0]
            ids = sinusoidal(
                cond.time_ids.reshape(-1), c.time_ids_dim, shift=c.frequency_shift, sine_first=c.sine_first
            )
            h = jnp.concatenate([cond.pooled.astype(jnp.float32), ids.reshape(b, -1)], axis=-1).astype(dtype)
            h = nn.silu(nn.Dense(width, dtype=dtype, name="added1")(h))
            embedding = embedding + nn.Dense(width, dtype=dtype, name="added2")(h)
        return embedding

    @nn.compact
    def __call__(
        self,
        z: Features,
        t: Float[Array, "b"],
        cond: Conditioning = Conditioning(),  # noqa: B008 (an immutable tuple)
    ) -> Features:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        context = cond.context
        if c.context_dim and context is None:
            raise InputError("cond.context: this UNet has cross-attention; give it tokens")
        if cond.image is not None:
            z = jnp.concatenate([z, cond.image], axis=-1)
        embedding = self._embedding(t, cond)
        res_block = nn.remat(ResBlock) if c.remat else ResBlock

        def resnet(h: Features, level: int, name: str) -> Features:
            return res_block(c.channels[level], c.groups, c.epsilon, dtype, name=name)(h, embedding)

        def attend(h: Features, level: int, depth: int, name: str) -> Features:
            if not depth:
                return h
            if not c.context_dim:
                return SpatialAttention(c.heads[level], c.groups, c.epsilon, dtype, name=name)(h)
            transformer = SpatialTransformer(c.heads[level], depth, c.groups, c.remat, dtype, name=name)
            return transformer(h, context, cond.context_mask)

        levels = range(len(c.channels))
        h = conv(c.channels[0], z.astype(dtype), dtype, name="conv_in")
        skips = [h]
        for level in levels:
            for i in range(c.blocks):
                h = resnet(h, level, f"down{level}_block{i}")
                h = attend(h, level, c.attention[level], f"down{level}_attention{i}")
                skips.append(h)
            if level < levels[-1]:
                h = Downsample(c.channels[level], "both", dtype, name=f"down{level}_downsample")(h)
                skips.append(h)

        last = levels[-1]
        h = resnet(h, last, "mid_block0")
        h = attend(h, last, c.mid_attention, "mid_attention")
        h = resnet(h, last, "mid_block1")

        for level in reversed(levels):
            for i in range(c.blocks + 1):
                h = resnet(jnp.concatenate([h, skips.pop()], axis=-1), level, f"up{level}_block{i}")
                h = attend(h, level, c.attention[level], f"up{level}_attention{i}")
            if level > 0:
                size = skips[-1].shape[1:-1]
                h = Upsample(c.channels[level], dtype, name=f"up{level}_upsample")(h, size)
        h = nn.silu(GroupNorm(c.groups, c.epsilon, dtype, name="norm_out")(h))
        return conv(c.out_channels, h, dtype, name="conv_out", zero=True).astype(jnp.float32)
