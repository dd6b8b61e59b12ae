"""The VQ-regularised first stage of LDM (Esser et al. 2021, arXiv 2012.09841; LDM, appendix G).

Latents are taken before quantisation, as LDM trains on them; `decode` quantises first.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from ldm_jax.errors import InputError
from ldm_jax.models.autoencoder import AutoencoderConfig, Decoder, Encoder, Images


@dataclasses.dataclass(frozen=True)
class VQConfig(AutoencoderConfig):
    """A VQ autoencoder: the ResNet encoder and decoder of the KL one with a codebook between them."""

    codebook_size: int = 8192
    """Entries of the codebook."""
    codebook_dim: int = 0
    """Features of an entry, the channels of the latents; 0: latent_channels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebook_size < 1 or self.codebook_dim < 0:
            raise InputError("autoencoder: codebook_size must be at least 1, codebook_dim 0 or more")

    @property
    def encoder_channels(self) -> int:
        """Features that the encoder gives: one for each latent channel."""
        return self.latent_channels

    @property
    def code_channels(self) -> int:
        """Channels of the latents that `encode` gives and `decode` takes."""
        return self.codebook_dim or self.latent_channels


class VQAutoencoder(nn.Module):
    """`encode` gives latents before quantisation, `decode` takes such latents."""

    config: VQConfig

    def example_inputs(self) -> tuple[Array]:
        """The smallest (x,) that the network takes, an image of one latent position."""
        side = self.config.factor
        return (jnp.zeros((1, side, side, self.config.image_channels), jnp.float32),)

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.codebook = self.param(
            "codebook", nn.initializers.uniform(2.0 / c.codebook_size), (c.codebook_size, c.code_channels)
        )
        if c.quant_conv:
            self.quant = nn.Dense(c.code_channels, dtype=dtype)
            self.post_quant = nn.Dense(c.latent_channels, dtype=dtype)

    def encode(self, x: Images) -> Images:
        """Images [b *space c] in [-1, 1] to latents before quantisation [b *(space / factor) code_channels]."""
        h = self.encoder(x)
        return (self.quant(h) if self.config.quant_conv else h).astype(jnp.float32)

    def indices(self, z: Images) -> Int[Array, "b ..."]:
        """The nearest codebook entry of each latent vector."""
        flat = z.reshape(-1, z.shape[-1]).astype(jnp.float32)
        book = self.codebook.astype(jnp.float32)
        # |z - e|^2 without |z|^2, which is the same for every entry.
        distance = jnp.square(book).sum(axis=1)[None, :] - 2.0 * flat @ book.T
        return jnp.argmin(distance, axis=1).reshape(z.shape[:-1])

    def quantize(self, z: Images) -> Images:
        """Each latent vector replaced by its nearest codebook entry."""
        return jnp.take(self.codebook, self.indices(z), axis=0).astype(jnp.float32)

    def decode(self, z: Images) -> Images:
        """Latents before quantisation to images in float32, about [-1, 1]."""
        h = self.quantize(z)
        if self.config.quant_conv:
            h = self.post_quant(h.astype(jnp.dtype(self.config.dtype)))
        return self.decoder(h)

    def __call__(self, x: Images) -> tuple[Images, Images]:
        """The reconstruction of x, and its latents before quantisation."""
        z = self.encode(x)
        return self.decode(z), z
