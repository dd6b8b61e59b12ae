"""The tiny autoencoders taesd, taesdxl and taesd3 (github.com/madebyollin/taesd): 3-convolutions and ReLU alone."""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.errors import InputError
from ldm_jax.models.layers import conv, rank

Images = Float[Array, "b ... _"]


@dataclasses.dataclass(frozen=True)
class TinyAutoencoderConfig:
    """Residual blocks at each resolution of the encoder and of the decoder."""

    image_channels: int = 3
    """Channels of the images."""
    latent_channels: int = 4
    """Channels of the latents: 4 in taesd and taesdxl, 16 in taesd3."""
    encoder_channels: tuple[int, ...] = (64, 64, 64, 64)
    """Width at each resolution of the encoder, the finest first; all the same."""
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    """Residual blocks at each resolution of the encoder, the finest first."""
    decoder_channels: tuple[int, ...] = (64, 64, 64, 64)
    """Width at each resolution of the decoder, the coarsest first; all the same."""
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    """Residual blocks at each resolution of the decoder, the coarsest first."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""
    remat: bool = False
    """Recompute the residual blocks in the backward pass instead of keeping their activations."""

    def __post_init__(self) -> None:
        for side in ("encoder", "decoder"):
            channels, blocks = getattr(self, f"{side}_channels"), getattr(self, f"{side}_blocks")
            if not channels or len(channels) != len(blocks) or len(set(channels)) != 1 or min(*channels, *blocks) < 0:
                raise InputError(
                    f"autoencoder.{side}_channels: {channels} must be one width repeated, as often as "
                    f"{side}_blocks {blocks}"
                )
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise InputError("autoencoder.decoder_blocks: must have as many entries as encoder_blocks")

    @property
    def code_channels(self) -> int:
        """Channels of the latents that `encode` gives and `decode` takes."""
        return self.latent_channels

    @property
    def factor(self) -> int:
        """How many times smaller the latents are than the images, along each axis."""
        return 2 ** (len(self.encoder_blocks) - 1)


def _residual(module: nn.Module, h: Images, name: str) -> Images:
    """Three convolutions around which h passes; they belong to the module, under names that begin with `name`."""
    config: TinyAutoencoderConfig = module.config  # type: ignore[attr-defined]

    def block(module: nn.Module, h: Images) -> Images:
        y, n = h, rank(h)
        for i in range(3):
            convolve = nn.Conv(
                h.shape[-1], (3,) * n, padding=1, dtype=config.dtype, name=f"{name}_conv{i}", parent=module
            )
            y = convolve(nn.relu(y) if i else y)
        return nn.relu(h + y)

    return (nn.remat(block) if config.remat else block)(module, h)


class TinyEncoder(nn.Module):
    """Images in [-1, 1] to latents."""

    config: TinyAutoencoderConfig

    @nn.compact
    def __call__(self, x: Images) -> Images:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        h = ((x + 1.0) / 2.0).astype(dtype)
        for level, (channels, blocks) in enumerate(zip(c.encoder_channels, c.encoder_blocks, strict=True)):
            if level == 0:
                h = conv(channels, h, dtype, name="conv_in")
            else:
                n, name = rank(h), f"down{level - 1}"
                h = nn.Conv(channels, (3,) * n, 2, padding=1, use_bias=False, dtype=dtype, name=name)(h)
            for i in range(blocks):
                h = _residual(self, h, f"level{level}_block{i}")
        return conv(c.latent_channels, h, dtype, name="conv_out").astype(jnp.float32)


class TinyDecoder(nn.Module):
    """Latents to images, about [-1, 1]; latents are soft-clamped to [-3, 3]."""

    config: TinyAutoencoderConfig

    @nn.compact
    def __call__(self, z: Images) -> Images:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        h = (3.0 * jnp.tanh(z / 3.0)).astype(dtype)
        h = nn.relu(conv(c.decoder_channels[0], h, dtype, name="conv_in"))
        for level, (channels, blocks) in enumerate(zip(c.decoder_channels, c.decoder_blocks, strict=True)):
            for i in range(blocks):
                h = _residual(self, h, f"level{level}_block{i}")
            if level < len(c.decoder_blocks) - 1:
                for axis in range(1, h.ndim - 1):
                    h = jnp.repeat(h, 2, axis=axis)
                n = rank(h)
                h = nn.Conv(channels, (3,) * n, padding=1, use_bias=False, dtype=dtype, name=f"up{level}")(h)
        return 2.0 * conv(c.image_channels, h, dtype, name="conv_out").astype(jnp.float32) - 1.0


class TinyAutoencoder(nn.Module):
    """`encode` and `decode` are the methods to apply; latents are raw, as those of the VAE it stands in for, scaled."""

    config: TinyAutoencoderConfig

    def example_inputs(self, rank: int = 2) -> tuple[Array]:
        """The smallest (x,) of `rank` axes that the network takes, one latent position."""
        return (jnp.zeros((1, *(self.config.factor,) * rank, self.config.image_channels), jnp.float32),)

    def setup(self) -> None:
        self.encoder = TinyEncoder(self.config)
        self.decoder = TinyDecoder(self.config)

    def encode(self, x: Images) -> Images:
        """Images [b *space c] in [-1, 1] to latents [b *(space / factor) latent_channels]."""
        return self.encoder(x)

    def decode_features(self, z: Images) -> Images:
        """Latents to the decoder's output in float32, which are the images."""
        return self.decoder(z)

    def output(self, features: Images) -> Images:
        """Images from the decoder's output."""
        return features

    def decode(self, z: Images) -> Images:
        """Latents to images in float32, about [-1, 1]."""
        return self.decoder(z)

    def __call__(self, x: Images) -> tuple[Images, Images]:
        """The reconstruction of x, and its latents."""
        z = self.encode(x)
        return self.decode(z), z
