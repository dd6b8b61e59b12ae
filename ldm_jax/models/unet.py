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
from ldm_jax.models import fitting
from ldm_jax.models.blocks import TransformerBlock
from ldm_jax.models.conditioning import Conditioning, Time, joined, per_example, received
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
    """A UNet with one entry of channels, attention and heads for each resolution.

    Fields that are open (0 channels, -1 classes or features) are filled in by `fitted` before the network is made.
    """

    in_channels: int = 0
    """Channels of z, plus those of cond.image where there is one; 0: as the latents and the conditions have."""
    out_channels: int = 0
    """Channels of the output; 0: as the latents have."""
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
    context_dim: int = -1
    """Features of cond.context; 0: plain self-attention layers instead of transformer blocks; -1: as the conditions
    give."""
    context_twice: tuple[bool, ...] = ()
    """Resolutions whose transformer blocks attend to the context in place of themselves (x4 upscaler); (): none."""
    class_rows: int = 0
    """Rows of the table that embeds cond.label (classes, or noise levels of an upscaler); 0: num_classes + 1 of them
    where there are classes, else none."""
    num_classes: int = 0
    """Classes; the last of class_rows then means 'none'. 0: none; -1: as the data has."""
    time_scale: float = 1000.0
    """t is multiplied by this before its sinusoidal features: 1000 for t in [0, 1], 1 for a t that counts to 1000."""
    added_dim: int = 0
    """Features of cond.pooled and the embedded cond.time_ids together (SDXL); 0: none; -1: as the conditions give."""
    time_ids_dim: int = 256
    """Sinusoidal features of each entry of cond.time_ids."""
    guidance_dim: int = 0
    """Sinusoidal features of cond.guidance, beside those of the time (LCM, arXiv 2310.04378); 0: none."""
    groups: int = 32
    """Groups of every GroupNorm."""
    epsilon: float = 1e-5
    """Epsilon of the ResNet blocks' norms; the transformers' input norms have 1e-6 always."""
    frequency_shift: float = 0.0
    """Subtracted from the divisor of the time features' exponents."""
    sine_first: bool = False
    """Time features are [sin, cos] instead of [cos, sin]."""
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
        for field in ("blocks", "groups", "time_ids_dim"):
            if getattr(self, field) < 1:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be at least 1")
        if (
            min(
                self.in_channels,
                self.out_channels,
                self.mid_attention,
                self.class_rows,
                self.guidance_dim,
                *self.attention,
            )
            < 0
        ):
            fields = "in_channels, out_channels, attention, mid_attention, class_rows, guidance_dim"
            raise InputError(f"denoiser: {fields} must be 0 or more")
        for field in ("num_classes", "context_dim", "added_dim"):
            if getattr(self, field) < -1:
                raise InputError(f"denoiser.{field}: {getattr(self, field)} must be -1 or more")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels < 1 or heads < 1 or channels % self.groups or channels % heads:
                raise InputError(
                    f"denoiser.channels: {channels} must be a multiple of groups ({self.groups}) and heads ({heads})"
                )
        if len(self.context_twice) not in (0, levels) or (any(self.context_twice) and not self.context_dim):
            raise InputError(
                f"denoiser.context_twice: {self.context_twice} must be () or have {levels} entries, with a context_dim"
            )
        if self.num_classes > 0 and self.class_rows not in (0, self.num_classes + 1):
            rows = f"one less than class_rows ({self.class_rows})"
            raise InputError(f"denoiser.num_classes: {self.num_classes} must be -1, 0 or {rows}")
        if self.context_dim == 0 and max(self.mid_attention, *self.attention) > 1:
            raise InputError("denoiser.attention: plain self-attention (context_dim 0) is 0 or 1 deep")

    @property
    def label_rows(self) -> int:
        """Rows of the table of labels, 0 where there is none."""
        return self.class_rows or (self.num_classes + 1 if self.num_classes > 0 else 0)

    @property
    def time_ids(self) -> int:
        """Entries of cond.time_ids: six in SDXL, and as many as leave cond.pooled its features."""
        return 0 if self.added_dim <= 0 else 6 if self.added_dim > 6 * self.time_ids_dim else 1

    def fitted(
        self, latent_channels: int, num_classes: int, image_channels: int = 0, context_dim: int = 0, pooled_dim: int = 0
    ) -> UNetConfig:
        """The config with its open fields filled in; InputError names a field that is set to something else.

        latent_channels: of z. num_classes: of the data, 0 for none. image_channels, context_dim, pooled_dim: what the
        conditions give as cond.image, cond.context and cond.pooled, 0 for none.
        """
        filled = fitting.channels(self, latent_channels, image_channels)
        filled |= fitting.features(self, context_dim=context_dim)
        added = pooled_dim + 6 * self.time_ids_dim if pooled_dim else 0
        if self.added_dim > 0 and (not pooled_dim or (self.added_dim - pooled_dim) % self.time_ids_dim):
            accepted = f"-1, 0 or {added}" if added else "-1 or 0: the conditions give no vector"
            raise InputError(f"denoiser.added_dim: {self.added_dim} must be {accepted}")
        filled["added_dim"] = added if self.added_dim == -1 else self.added_dim
        filled["num_classes"] = classes = fitting.classes(self, num_classes)
        if self.class_rows and not classes:
            raise InputError(f"denoiser.class_rows: {self.class_rows} must be 0; num_classes -1 fills it in")
        filled["class_rows"] = classes + 1 if classes else 0
        config = dataclasses.replace(self, **filled)
        fitting.heard(config, {"context_dim": context_dim, "added_dim": added})
        return config


class SpatialTransformer(nn.Module):
    """GroupNorm, projection, transformer blocks over all positions, projection, residual (LDM, appendix E.2.1)."""

    heads: int
    depth: int
    groups: int
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    context_twice: bool = False

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
                context_twice=self.context_twice,
                name=f"block{i}",
            )
            h = block(h, None, context, mask)
        return x + nn.Dense(c, dtype=self.dtype, name="out")(h).reshape(x.shape)


class UNet(nn.Module):
    """(z [b *space c], t [b] or a scalar, cond) -> output [b *space out_channels] in float32."""

    config: UNetConfig

    def example_inputs(self, rank: int = 2) -> tuple[Array, Array, Conditioning]:
        """A small (z, t, cond) of `rank` axes that the network takes; parameters fit every size of that rank."""
        c = self.config
        side, pooled = 2 ** (len(c.channels) - 1), c.added_dim - c.time_ids * c.time_ids_dim
        cond = Conditioning(
            label=jnp.zeros(1, jnp.int32) if c.label_rows else None,
            context=jnp.zeros((1, 1, c.context_dim), jnp.float32) if c.context_dim else None,
            pooled=jnp.zeros((1, pooled), jnp.float32) if c.added_dim else None,
            time_ids=jnp.zeros((1, c.time_ids), jnp.float32) if c.added_dim else None,
            guidance=jnp.ones(1, jnp.float32) if c.guidance_dim else None,
        )
        return jnp.zeros((1, *(side,) * rank, c.in_channels), jnp.float32), jnp.zeros(1, jnp.float32), cond

    def _embedding(self, t: Float[Array, "b"], cond: Conditioning) -> Float[Array, "b e"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        width = 4 * c.channels[0]
        time = TimeEmbedding(width, c.channels[0], dtype, c.frequency_shift, c.sine_first, name="time")
        guidance = None
        if c.guidance_dim and cond.guidance is not None:
            # How far it is from none, in thousandths.
            scales = 1000.0 * (cond.guidance.astype(jnp.float32) - 1.0)
            guidance = sinusoidal(scales, c.guidance_dim, shift=1.0, sine_first=True)
        embedding = time(t * c.time_scale, guidance)
        if c.label_rows:
            table = nn.Embed(c.label_rows, width, name="label")
            embedding = embedding + table(cond.label).astype(dtype)  # type: ignore[arg-type]
        if cond.pooled is not None and cond.time_ids is not None and c.added_dim:
            b, given = t.shape[0], cond.pooled.shape[-1] + cond.time_ids.shape[-1] * c.time_ids_dim
            if given != c.added_dim:
                raise InputError(f"cond.pooled: with cond.time_ids embedded {given} features, not {c.added_dim}")
            ids = sinusoidal(
                cond.time_ids.reshape(-1), c.time_ids_dim, shift=c.frequency_shift, sine_first=c.sine_first
            )
            h = jnp.concatenate([cond.pooled.astype(jnp.float32), ids.reshape(b, -1)], axis=-1).astype(dtype)
            h = nn.silu(nn.Dense(width, dtype=dtype, name="added1")(h))
            embedding = embedding + nn.Dense(width, dtype=dtype, name="added2")(h)
        return embedding

    @nn.compact
    def __call__(self, z: Features, t: Time, cond: Conditioning | None = None) -> Features:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        fitting.closed(c, "UNet")
        added = c.added_dim > 0
        cond = received(
            cond,
            "UNet",
            label=c.label_rows > 0,
            context=c.context_dim,
            pooled=-1 if added else 0,
            time_ids=added,
            guidance=c.guidance_dim > 0,
        )
        z, t, context = joined(z, cond.image, c.in_channels, "UNet"), per_example(t, len(z)), cond.context
        embedding = self._embedding(t, cond)
        res_block = nn.remat(ResBlock) if c.remat else ResBlock

        def resnet(h: Features, level: int, name: str) -> Features:
            return res_block(c.channels[level], c.groups, c.epsilon, dtype, name=name)(h, embedding)

        def attend(h: Features, level: int, depth: int, name: str) -> Features:
            if not depth:
                return h
            if not c.context_dim:
                return SpatialAttention(c.heads[level], c.groups, c.epsilon, dtype, name=name)(h)
            twice = bool(c.context_twice) and c.context_twice[level] and name != "mid_attention"
            transformer = SpatialTransformer(c.heads[level], depth, c.groups, c.remat, dtype, twice, name=name)
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
