"""Networks: Linen modules with one frozen config each, used as pure functions of (params, inputs)."""

from typing import Any

import flax.linen as nn

from ldm_jax.models.autoencoder import Autoencoder, AutoencoderConfig, Posterior
from ldm_jax.models.conditioning import Conditioning
from ldm_jax.models.dit import DiT, DiTConfig
from ldm_jax.models.lpips import LPIPS, LPIPSConfig
from ldm_jax.models.mmdit import MMDiT, MMDiTConfig
from ldm_jax.models.text import TextEncoder, TextEncoderConfig, TextEncoding, sentence_embedding
from ldm_jax.models.tiny import TinyAutoencoder, TinyAutoencoderConfig
from ldm_jax.models.unet import UNet, UNetConfig
from ldm_jax.models.vq import VQAutoencoder, VQConfig


def apply(module: nn.Module, params: Any, *args: Any, **kwargs: Any) -> Any:
    """The network as a pure function: module.apply without state, `method` and other keywords passed on."""
    return module.apply({"params": params}, *args, **kwargs)


__all__ = [
    "LPIPS",
    "Autoencoder",
    "AutoencoderConfig",
    "Conditioning",
    "DiT",
    "DiTConfig",
    "LPIPSConfig",
    "MMDiT",
    "MMDiTConfig",
    "Posterior",
    "TextEncoder",
    "TextEncoderConfig",
    "TextEncoding",
    "TinyAutoencoder",
    "TinyAutoencoderConfig",
    "UNet",
    "UNetConfig",
    "VQAutoencoder",
    "VQConfig",
    "apply",
    "sentence_embedding",
]
