"""The first stage: images to a KL-regularised latent space and back, as in LDM (Rombach et al. 2022, appendix G).

Esser et al. 2021 (arXiv 2012.09841), table 7 for the ResNet encoder and decoder. A space-to-depth stem replaces the
first halvings where convolutions at full resolution are too dear; residual_resampling is the residual autoencoding of
DC-AE (Chen et al. 2024, arXiv 2410.10733, section 3.2).
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.errors import InputError
from ldm_jax.models.layers import (
    Downsample,
    GroupNorm,
    ResBlock,
    SpatialAttention,
    Upsample,
    conv,
    depth_to_space,
    space_to_depth,
)

Images = Float[Array, "b ... _"]


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """A KL autoencoder; its down-sampling factor is stem x 2^(len(multipliers) - 1)."""

    image_channels: int = 3
    """Channels of the images, 1 or 3."""
    latent_channels: int = 4
    """Channels of the latents."""
    channels: int = 128
    """Width at the first resolution."""
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Width at each resolution, in units of `channels`; every entry after the first halves the resolution."""
    blocks: int = 2
    """ResNet blocks per resolution in the encoder; the decoder has one more."""
    stem: int = 1
    """Space-to-depth patch before the first convolution, 1 for none."""
    attention: bool = True
    """Self-attention in the middle."""
    groups: int = 32
    """Groups of every GroupNorm."""
    quant_conv: bool = True
    """1x1 convolutions on both sides of the latents."""
    sigmoid_output: bool = False
    """The decoder's features are logits of (x + 1) / 2, as binary cross-entropy wants; `decode` applies the sigmoid."""
    attention_levels: tuple[int, ...] = ()
    """Resolutions (0 the finest) whose every ResNet block is followed by self-attention."""
    residual_resampling: bool = False
    """Shortcuts without parameters around every down- and up-sampling, which then also change the width."""
    remat: bool = False
    """Recompute the ResNet blocks in the backward pass instead of keeping their activations."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""

    def __post_init__(self) -> None:
        if not self.multipliers or min(self.multipliers) < 1:
            raise InputError(f"autoencoder.multipliers: {self.multipliers} must be one or more positive integers")
        for field in ("image_channels", "latent_channels", "channels", "blocks", "stem", "groups"):
            if getattr(self, field) < 1:
                raise InputError(f"autoencoder.{field}: {getattr(self, field)} must be at least 1")
        if self.channels % self.groups:
            raise InputError(f"autoencoder.channels: {self.channels} must be a multiple of groups ({self.groups})")
        if not all(0 <= level < len(self.multipliers) for level in self.attention_levels):
            raise InputError(
                f"autoencoder.attention_levels: {self.attention_levels} must be below {len(self.multipliers)}"
            )
        if self.residual_resampling and any(
            4 * fine % coarse or 4 * coarse % fine for fine, coarse in itertools.pairwise(self.multipliers)
        ):
            raise InputError(
                f"autoencoder.multipliers: {self.multipliers} must grow by 1, 2 or 4 with residual_resampling"
            )

    @property
    def code_channels(self) -> int:
        """Channels of the latents that `encode` gives and `decode` takes."""
        return self.latent_channels

    @property
    def encoder_channels(self) -> int:
        """Features that the encoder gives: a mean and a log-variance for each latent channel."""
        return 2 * self.latent_channels

    @property
    def factor(self) -> int:
        """How many times smaller the latents are than the images, along each axis."""
        return self.stem * 2 ** (len(self.multipliers) - 1)


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents; both parts [b *space c]."""

    mean: Images
    logvar: Images

    def sample(self, noise: Images) -> Images:
        """mean + std * noise, noise standard normal (Kingma & Welling 2013, arXiv 1312.6114, eq. 9)."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Array, "b"]:
        """KL divergence from the standard normal in nats, summed over each example's latents (ibid., appendix B)."""
        terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar
        return 0.5 * terms.sum(axis=tuple(range(1, terms.ndim)))


class Encoder(nn.Module):
    """Images [b *space c] to encoder_channels features at space / factor."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Images) -> Images:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        h = conv(c.channels, space_to_depth(x.astype(dtype), c.stem), dtype, name="conv_in")
        for level, multiplier in enumerate(c.multipliers):
            for block in range(c.blocks):
                h = _resblock(c)(c.channels * multiplier, c.groups, dtype=dtype, name=f"down{level}_block{block}")(h)
                if level in c.attention_levels:
                    h = SpatialAttention(groups=c.groups, dtype=dtype, name=f"down{level}_attention{block}")(h)
            if level < len(c.multipliers) - 1:
                width = c.channels * c.multipliers[level + 1] if c.residual_resampling else h.shape[-1]
                residual = c.residual_resampling
                h = Downsample(width, dtype=dtype, residual=residual, name=f"down{level}_downsample")(h)
        h = _middle(c, h)
        h = nn.silu(GroupNorm(c.groups, dtype=dtype, name="norm_out")(h))
        return conv(c.encoder_channels, h, dtype, name="conv_out")


class Decoder(nn.Module):
    """Latents [b *space c] to images at space x factor."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, z: Images) -> Images:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        h = conv(c.channels * c.multipliers[-1], z.astype(dtype), dtype, name="conv_in")
        h = _middle(c, h)
        for level, multiplier in reversed(list(enumerate(c.multipliers))):
            for block in range(c.blocks + 1):
                h = _resblock(c)(c.channels * multiplier, c.groups, dtype=dtype, name=f"up{level}_block{block}")(h)
                if level in c.attention_levels:
                    h = SpatialAttention(groups=c.groups, dtype=dtype, name=f"up{level}_attention{block}")(h)
            if level > 0:
                width = c.channels * c.multipliers[level - 1] if c.residual_resampling else h.shape[-1]
                residual = c.residual_resampling
                h = Upsample(width, dtype=dtype, residual=residual, name=f"up{level}_upsample")(h)
        h = nn.silu(GroupNorm(c.groups, dtype=dtype, name="norm_out")(h))
        h = conv(c.image_channels * c.stem ** (h.ndim - 2), h, dtype, name="conv_out")
        return depth_to_space(h, c.stem).astype(jnp.float32)


def _resblock(config: AutoencoderConfig) -> type[ResBlock]:
    return nn.remat(ResBlock) if config.remat else ResBlock  # type: ignore[return-value]


def _middle(config: AutoencoderConfig, h: Images) -> Images:
    dtype = jnp.dtype(config.dtype)
    h = _resblock(config)(h.shape[-1], config.groups, dtype=dtype, name="mid_block0")(h)
    if config.attention:
        h = SpatialAttention(groups=config.groups, dtype=dtype, name="mid_attention")(h)
    return _resblock(config)(h.shape[-1], config.groups, dtype=dtype, name="mid_block1")(h)


class Autoencoder(nn.Module):
    """Encoder, posterior and decoder; `encode` and `decode` are the methods to apply."""

    config: AutoencoderConfig

    def example_inputs(self, rank: int = 2) -> tuple[Images]:
        """The smallest (x,) of `rank` axes that the network takes, one latent position."""
        return (jnp.zeros((1, *(self.config.factor,) * rank, self.config.image_channels), jnp.float32),)

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        if c.quant_conv:
            self.quant = nn.Dense(2 * c.latent_channels, dtype=dtype)
            self.post_quant = nn.Dense(c.latent_channels, dtype=dtype)

    def encode(self, x: Images) -> Posterior:
        """Images [b *space c] in [-1, 1] to the posterior over raw latents [b *(space / factor) latent_channels]."""
        h = self.encoder(x)
        if self.config.quant_conv:
            h = self.quant(h)
        mean, logvar = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        return Posterior(mean, jnp.clip(logvar, -30.0, 20.0))

    def decode_features(self, z: Images) -> Images:
        """Raw latents to the decoder's output in float32: images, or logits with `sigmoid_output`."""
        if self.config.quant_conv:
            z = self.post_quant(z.astype(jnp.dtype(self.config.dtype)))
        return self.decoder(z)

    def output(self, features: Images) -> Images:
        """Images from the decoder's output; about [-1, 1], not clipped."""
        return 2.0 * nn.sigmoid(features) - 1.0 if self.config.sigmoid_output else features

    def decode(self, z: Images) -> Images:
        """Raw latents [b *space c] to images [b *(space x factor) image_channels] in float32, about [-1, 1]."""
        return self.output(self.decode_features(z))

    def __call__(self, x: Images) -> tuple[Images, Posterior]:
        """The reconstruction of x through the posterior's mean, and the posterior."""
        posterior = self.encode(x)
        return self.decode(posterior.mean), posterior
