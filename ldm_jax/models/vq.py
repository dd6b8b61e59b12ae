"""Quantised first stages: the VQ autoencoder of LDM and finite scalar quantisation (FSQ).

Latents are taken before quantisation, as LDM trains on them; `decode` quantises first.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

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
        if not self.quant_conv and self.code_channels != self.latent_channels:
            raise InputError(f"autoencoder.codebook_dim: {self.codebook_dim} must be 0 without quant_conv")

    @property
    def encoder_channels(self) -> int:
        """Features that the encoder gives: one for each latent channel."""
        return self.latent_channels

    @property
    def code_channels(self) -> int:
        """Channels of the latents that `encode` gives and `decode` takes."""
        return self.codebook_dim or self.latent_channels


@dataclasses.dataclass(frozen=True)
class FSQConfig(AutoencoderConfig):
    """An autoencoder whose latent channels are each rounded to a few levels; the codebook is their product."""

    latent_channels: int = 4
    """Channels of the latents, one for each entry of `levels`."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Values that each latent channel can take; (8, 5, 5, 5) makes 1000 codes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels or min(self.levels) < 2:
            raise InputError(f"autoencoder.levels: {self.levels} must be integers of at least 2")
        if len(self.levels) != self.latent_channels:
            raise InputError(
                f"autoencoder.levels: {self.levels} must have latent_channels ({self.latent_channels}) entries"
            )

    @property
    def encoder_channels(self) -> int:
        """Features that the encoder gives: one for each latent channel."""
        return self.latent_channels

    @property
    def codebook_size(self) -> int:
        """Codes that there are: the product of the levels."""
        return int(np.prod(self.levels))


class QuantizedAutoencoder(nn.Module):
    """What VQ and FSQ share: `encode` gives latents before quantisation, `decode` takes such latents."""

    config: VQConfig | FSQConfig

    def example_inputs(self, rank: int = 2) -> tuple[Array]:
        """The smallest (x,) of `rank` axes that the network takes, one latent position."""
        return (jnp.zeros((1, *(self.config.factor,) * rank, self.config.image_channels), jnp.float32),)

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        if c.quant_conv:
            self.quant = nn.Dense(c.code_channels, dtype=dtype)
            self.post_quant = nn.Dense(c.latent_channels, dtype=dtype)

    def encode(self, x: Images) -> Images:
        """Images [b *space c] in [-1, 1] to latents before quantisation [b *(space / factor) code_channels]."""
        h = self.encoder(x)
        return (self.quant(h) if self.config.quant_conv else h).astype(jnp.float32)

    def indices(self, z: Images) -> Int[Array, "b ..."]:
        """The code of each latent vector, 0 .. codebook_size - 1."""
        raise NotImplementedError

    def quantize(self, z: Images) -> Images:
        """Each latent vector replaced by its code's."""
        raise NotImplementedError

    def decode_features(self, codes: Images) -> Images:
        """Quantised latents to the decoder's output in float32: images, or logits with `sigmoid_output`."""
        if self.config.quant_conv:
            codes = self.post_quant(codes.astype(jnp.dtype(self.config.dtype)))
        return self.decoder(codes)

    def output(self, features: Images) -> Images:
        """Images from the decoder's output; about [-1, 1], not clipped."""
        return 2.0 * nn.sigmoid(features) - 1.0 if self.config.sigmoid_output else features

    def decode(self, z: Images) -> Images:
        """Latents before quantisation to images in float32, about [-1, 1]."""
        return self.output(self.decode_features(self.quantize(z)))

    def __call__(self, x: Images) -> tuple[Images, Images]:
        """The reconstruction of x, and its latents before quantisation."""
        z = self.encode(x)
        return self.decode(z), z


class VQAutoencoder(QuantizedAutoencoder):
    """Vector quantisation by the nearest of codebook_size entries (Esser et al. 2021, arXiv 2012.09841, eq. 2)."""

    config: VQConfig

    def setup(self) -> None:
        super().setup()
        c = self.config
        self.codebook = self.param(
            "codebook", nn.initializers.uniform(2.0 / c.codebook_size), (c.codebook_size, c.code_channels)
        )

    def indices(self, z: Images) -> Int[Array, "b ..."]:
        """The nearest codebook entry of each latent vector."""
        return nearest(jnp.asarray(self.codebook), z)

    def quantize(self, z: Images) -> Images:
        """Each latent vector replaced by its nearest codebook entry; gradients reach the codebook, not z."""
        return jnp.take(self.codebook, self.indices(z), axis=0).astype(jnp.float32)


def nearest(codebook: Float[Array, "k d"], z: Images) -> Int[Array, "b ..."]:
    """The index of the codebook entry nearest to each vector on z's last axis."""
    flat = z.reshape(-1, z.shape[-1]).astype(jnp.float32)
    book = codebook.astype(jnp.float32)
    # |z - e|^2 without |z|^2, which is the same for every entry.
    distance = jnp.square(book).sum(axis=1)[None, :] - 2.0 * flat @ book.T
    return jnp.argmin(distance, axis=1).reshape(z.shape[:-1])


def _channels(values: Array, z: Images) -> Array:
    """[c] shaped to meet z [b ... c]."""
    return values.reshape((1,) * (z.ndim - 1) + (-1,))


class FSQAutoencoder(QuantizedAutoencoder):
    """Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505, section 3.1): no codebook to learn."""

    config: FSQConfig

    def _whole(self, z: Images) -> Images:
        """Each channel squashed to its range and rounded to an integer, -L/2 .. (L-1)/2; straight-through gradients."""
        levels = jnp.asarray(self.config.levels, jnp.float32)
        # Even numbers of levels are shifted by a half, so that rounding gives exactly `levels` values.
        half = (levels - 1.0) * (1.0 + 1e-3) / 2.0
        offset = jnp.where(levels % 2 == 0, 0.5, 0.0)
        half, offset, shift = (_channels(v, z) for v in (half, offset, jnp.arctanh(offset / half)))
        bounded = jnp.tanh(z + shift) * half - offset
        return bounded + lax.stop_gradient(jnp.round(bounded) - bounded)

    def quantize(self, z: Images) -> Images:
        """Each channel to one of its levels in [-1, 1]; straight-through gradients reach z."""
        scale = jnp.asarray(self.config.levels, jnp.float32) // 2
        return self._whole(z) / _channels(scale, z)

    def indices(self, z: Images) -> Int[Array, "b ..."]:
        """The code of each latent vector, its levels read as digits, the first channel the least significant."""
        levels = np.asarray(self.config.levels)
        digits = self._whole(z).astype(jnp.int32) + _channels(jnp.asarray(levels // 2), z)
        basis = np.concatenate([[1], np.cumprod(levels[:-1])])
        return (digits * _channels(jnp.asarray(basis), z)).sum(axis=-1)
