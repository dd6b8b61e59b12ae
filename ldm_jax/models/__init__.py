"""Networks: Linen modules with one frozen config each, used as pure functions of (params, inputs).

Here belong architectures, their configs and what is common to them: layers, attention, conditioning, tiling, how they
are computed. Here do not belong losses, schedules and samplers (a denoiser knows its t and nothing of noise), where
parameters come from and how files lay them out (`pretrained`), and anything that trains.
"""

from typing import Any

import flax.linen as nn

from ldm_jax.models.autoencoder import Autoencoder, AutoencoderConfig, Posterior
from ldm_jax.models.boxes import BoxEncoder, BoxEncoderConfig
from ldm_jax.models.computing import stack_blocks, unstack_blocks, with_compute
from ldm_jax.models.conditioning import Conditioning
from ldm_jax.models.discriminator import Discriminator, DiscriminatorConfig
from ldm_jax.models.dit import DiT, DiTConfig
from ldm_jax.models.efficientnet import EfficientNet, EfficientNetConfig, EfficientNetFeatures
from ldm_jax.models.inception import Inception, InceptionConfig, InceptionFeatures
from ldm_jax.models.lpips import LPIPS, LPIPSConfig
from ldm_jax.models.mmdit import MMDiT, MMDiTConfig
from ldm_jax.models.t5 import T5Config, T5Encoder
from ldm_jax.models.text import TextEncoder, TextEncoderConfig, TextEncoding, sentence_embedding
from ldm_jax.models.tiny import TinyAutoencoder, TinyAutoencoderConfig
from ldm_jax.models.unet import UNet, UNetConfig
from ldm_jax.models.vision_transformer import VisionFeatures, VisionTransformer, VisionTransformerConfig
from ldm_jax.models.vq import FSQAutoencoder, FSQConfig, QuantizedAutoencoder, VQAutoencoder, VQConfig

AUTOENCODERS: dict[type, type[nn.Module]] = {
    AutoencoderConfig: Autoencoder,
    VQConfig: VQAutoencoder,
    FSQConfig: FSQAutoencoder,
    TinyAutoencoderConfig: TinyAutoencoder,
}
"""The first stage that each config describes."""


def make_autoencoder(config: AutoencoderConfig | TinyAutoencoderConfig) -> Any:
    """The first stage that a config describes: a module with `encode`, `decode`, `decode_features` and `output`."""
    return AUTOENCODERS[type(config)](config)  # type: ignore[call-arg]


def make_denoiser(config: DiTConfig | UNetConfig | MMDiTConfig) -> DiT | UNet | MMDiT:
    """The denoiser that a config describes: (z [b *space c], t [b] or a scalar, cond) -> output like z."""
    if isinstance(config, UNetConfig):
        return UNet(config)
    return MMDiT(config) if isinstance(config, MMDiTConfig) else DiT(config)


def apply(module: nn.Module, params: Any, *args: Any, **kwargs: Any) -> Any:
    """The network as a pure function: module.apply without state, `method` and other keywords passed on."""
    return module.apply({"params": params}, *args, **kwargs)


__all__ = [
    "AUTOENCODERS",
    "LPIPS",
    "Autoencoder",
    "AutoencoderConfig",
    "BoxEncoder",
    "BoxEncoderConfig",
    "Conditioning",
    "DiT",
    "DiTConfig",
    "Discriminator",
    "DiscriminatorConfig",
    "EfficientNet",
    "EfficientNetConfig",
    "EfficientNetFeatures",
    "FSQAutoencoder",
    "FSQConfig",
    "Inception",
    "InceptionConfig",
    "InceptionFeatures",
    "LPIPSConfig",
    "MMDiT",
    "MMDiTConfig",
    "Posterior",
    "QuantizedAutoencoder",
    "T5Config",
    "T5Encoder",
    "TextEncoder",
    "TextEncoderConfig",
    "TextEncoding",
    "TinyAutoencoder",
    "TinyAutoencoderConfig",
    "UNet",
    "UNetConfig",
    "VQAutoencoder",
    "VQConfig",
    "VisionFeatures",
    "VisionTransformer",
    "VisionTransformerConfig",
    "apply",
    "make_autoencoder",
    "make_denoiser",
    "sentence_embedding",
    "stack_blocks",
    "unstack_blocks",
    "with_compute",
]
