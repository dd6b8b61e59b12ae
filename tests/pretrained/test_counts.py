"""Full-size networks by shape alone: the published parameter counts, exactly."""

from __future__ import annotations

import math

import pytest

from ldm_jax.models import (
    Autoencoder,
    AutoencoderConfig,
    DiT,
    DiTConfig,
    MMDiT,
    MMDiTConfig,
    T5Config,
    T5Encoder,
    TextEncoder,
    TextEncoderConfig,
    TinyAutoencoder,
    TinyAutoencoderConfig,
    UNet,
    UNetConfig,
)
from ldm_jax.pretrained.names import flat_shapes

XL = {"width": 1152, "depth": 28, "heads": 16, "num_classes": 1000}
LIGHTNING = {"patch": 1, "norm": "rms", "norm_scale": True, "mlp": "swiglu", "rope": True}
SD1 = {"out_channels": 4, "context_dim": 768}
FOUR = {"in_channels": 4, "out_channels": 4}
SD3 = {
    "in_channels": 16,
    "out_channels": 16,
    "context_dim": 4096,
    "pooled_dim": 2048,
    "positions": 192,
    "base_size": 64,
}
SDXL = {
    **FOUR,
    "channels": (320, 640, 1280),
    "attention": (0, 2, 10),
    "mid_attention": 10,
    "heads": (5, 10, 20),
    "context_dim": 2048,
    "added_dim": 2816,
}
SD2 = {**FOUR, "heads": (5, 10, 20, 20), "context_dim": 1024}
BIG_G = {"width": 1280, "depth": 32, "heads": 20, "hidden": 5120, "activation": "gelu", "projection": 1280}

# (name, network, published count). The table of docs/weights.md says where each number is from.
PUBLISHED = [
    ("SD 1.5 UNet", UNet(UNetConfig(in_channels=4, **SD1)), 859_520_964),
    ("SD 1.5 inpainting UNet", UNet(UNetConfig(in_channels=9, **SD1)), 859_535_364),
    ("SD 2.1 UNet", UNet(UNetConfig(**SD2)), 865_910_724),
    ("SDXL UNet", UNet(UNetConfig(**SDXL)), 2_567_463_684),
    ("SD VAE", Autoencoder(AutoencoderConfig()), 83_653_863),
    ("SD 3 VAE", Autoencoder(AutoencoderConfig(latent_channels=16, quant_conv=False)), 83_819_683),
    ("taesd", TinyAutoencoder(TinyAutoencoderConfig()), 2_445_063),
    ("SD 3 medium", MMDiT(MMDiTConfig(**SD3)), 2_084_951_104),
    ("CLIP ViT-L/14 text", TextEncoder(TextEncoderConfig()), 123_060_480),
    ("OpenCLIP bigG text", TextEncoder(TextEncoderConfig(**BIG_G)), 694_659_840),
    ("T5 v1.1 XXL encoder", T5Encoder(T5Config()), 4_762_310_656),
    ("DiT-XL/2", DiT(DiTConfig(in_channels=4, out_channels=8, **XL)), 675_129_632 - 256 * 1152),
    ("SiT-XL/2", DiT(DiTConfig(in_channels=4, out_channels=8, **XL)), 675_129_632 - 256 * 1152),
    ("LightningDiT-XL/1", DiT(DiTConfig(in_channels=32, out_channels=32, **XL, **LIGHTNING)), 675_256_736 - 256 * 1152),
]


@pytest.mark.parametrize(("name", "module", "published"), PUBLISHED, ids=[name for name, *_ in PUBLISHED])
def test_parameter_counts(name, module, published):
    assert sum(math.prod(shape) for shape in flat_shapes(module).values()) == published
