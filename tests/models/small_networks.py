"""A tiny one of every network that a stage may use, and parameters without zeros for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import models
from ldm_jax.models import Conditioning

CHANNELS = {"in_channels": 3, "out_channels": 3}
AE = {"channels": 8, "groups": 4, "multipliers": (1, 2), "blocks": 1, "latent_channels": 2}
TINY = {"encoder_channels": (8, 8), "encoder_blocks": (1, 1), "decoder_channels": (8, 8), "decoder_blocks": (1, 1)}
TEXT = {"vocabulary": 9, "width": 8, "depth": 2, "heads": 2, "hidden": 8}
UNET = {
    **CHANNELS,
    "channels": (8, 8),
    "blocks": 1,
    "attention": (0, 1),
    "mid_attention": 0,
    "heads": (2, 2),
    "groups": 4,
}
JOINT = {**CHANNELS, "width": 16, "depth": 2, "heads": 2, "context_dim": 6, "pooled_dim": 5}

AUTOENCODERS = {
    "kl": models.Autoencoder(models.AutoencoderConfig(**AE)),
    "vq": models.VQAutoencoder(models.VQConfig(**AE, codebook_size=4)),
    "fsq": models.FSQAutoencoder(models.FSQConfig(**AE, levels=(3, 3))),
    "tiny": models.TinyAutoencoder(models.TinyAutoencoderConfig(**TINY)),
}
DENOISERS = {
    "dit": models.DiT(models.DiTConfig(**JOINT, num_classes=3)),
    "unet": models.UNet(models.UNetConfig(**UNET, context_dim=6)),
    "mmdit": models.MMDiT(models.MMDiTConfig(**{**JOINT, "depth": 4}, num_classes=3, dual_layers=(0,))),
}
OTHERS = {
    "discriminator": models.Discriminator(models.DiscriminatorConfig(image_channels=3, channels=8, layers=2)),
    "lpips": models.LPIPS(models.LPIPSConfig()),
    "clip": models.TextEncoder(models.TextEncoderConfig(**TEXT, positions=6)),
    "t5": models.T5Encoder(models.T5Config(**TEXT, head_dim=4)),
}
ALL = {**AUTOENCODERS, **DENOISERS, **OTHERS}


def shapes(module, rank=2):
    args = module.example_inputs() if rank == 2 else module.example_inputs(rank)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *args)["params"])


def randomised(module, rank=2):
    """Random parameters of about the size that initialisers give, zeros among them too."""
    draw = np.random.default_rng(0)

    def leaf(shape):
        fan = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 4.0
        return (draw.standard_normal(shape.shape) / np.sqrt(fan)).astype(np.float32)

    return jax.tree.map(leaf, shapes(module, rank))


def inputs(name, rank=2, batch=2):
    """Random arguments for a batch."""
    module = ALL[name]
    keys = iter(jax.random.split(jax.random.key(1), 9))
    side = (4 if name in DENOISERS else 16 if name == "discriminator" else 8,) * rank
    if name in ("clip", "t5"):
        return (jax.random.randint(next(keys), (batch, 5), 0, 9),)
    x = jax.random.normal(next(keys), (batch, *side, 3))
    if name == "lpips":
        x = jax.random.normal(next(keys), (batch, 16, 16, 3))
        return x, 0.5 * x + 0.1
    if name not in DENOISERS:
        return (x,)
    c = module.config
    cond = Conditioning(
        label=jnp.arange(batch) if c.num_classes else None,
        context=jax.random.normal(next(keys), (batch, 3, c.context_dim)),
        pooled=jax.random.normal(next(keys), (batch, 5)) if getattr(c, "pooled_dim", 0) else None,
    )
    return x, jnp.linspace(0.2, 0.8, batch), cond
