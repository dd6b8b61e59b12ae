"""The same experiment made tiny, for --smoke: every path of the code is still walked."""

from __future__ import annotations

import dataclasses
from typing import Any

from ldm_jax.conditions.text import Text, TrainedEncoder
from ldm_jax.config import Config, Pretrained
from ldm_jax.models.autoencoder import AutoencoderConfig
from ldm_jax.models.dit import DiTConfig
from ldm_jax.models.mmdit import MMDiTConfig
from ldm_jax.models.tiny import TinyAutoencoderConfig
from ldm_jax.models.unet import UNetConfig
from ldm_jax.models.vq import FSQConfig, VQConfig
from ldm_jax.stages import AutoencoderTraining, StageConfig


def _shrink_autoencoder(
    config: AutoencoderConfig | VQConfig | FSQConfig | TinyAutoencoderConfig,
) -> AutoencoderConfig | VQConfig | FSQConfig | TinyAutoencoderConfig:
    if isinstance(config, TinyAutoencoderConfig):
        widths, blocks = (8,) * len(config.encoder_channels), (1,) * len(config.encoder_blocks)
        return dataclasses.replace(
            config, encoder_channels=widths, decoder_channels=widths, encoder_blocks=blocks, decoder_blocks=blocks
        )
    small = dataclasses.replace(
        config, channels=8, groups=4, blocks=1, multipliers=tuple(min(m, 2) for m in config.multipliers)
    )
    if isinstance(small, VQConfig):
        return dataclasses.replace(small, codebook_size=min(small.codebook_size, 64))
    return small


def _shrink_denoiser(config: DiTConfig | UNetConfig | MMDiTConfig) -> DiTConfig | UNetConfig | MMDiTConfig:
    if isinstance(config, DiTConfig):
        return dataclasses.replace(config, width=32, depth=min(config.depth, 2), heads=2)
    if isinstance(config, MMDiTConfig):
        return dataclasses.replace(config, depth=min(config.depth, 2))
    levels = len(config.channels)
    return dataclasses.replace(config, channels=(16,) * levels, heads=(2,) * levels, groups=4, blocks=1)


def shrink(config: Config) -> Config:
    """Small nets, few steps and images."""
    autoencoder, denoiser = config.autoencoder, config.denoiser
    size = config.data.image_size
    if not isinstance(autoencoder, Pretrained):
        autoencoder = _shrink_autoencoder(autoencoder)
        # Four tokens a side are enough, or one at a UNet's last resolution; no larger than what was asked for.
        side = max(4, 2 ** (len(denoiser.channels) - 1)) if isinstance(denoiser, UNetConfig) else 4
        size = min(size, side * autoencoder.factor * getattr(denoiser, "patch", 1))
    if not isinstance(denoiser, Pretrained):
        denoiser = _shrink_denoiser(denoiser)
    data = dataclasses.replace(
        config.data,
        image_size=size,
        batch_size=min(config.data.batch_size, 16),
        limit=min(config.data.limit or 256, 256),
    )
    return dataclasses.replace(
        config,
        data=data,
        autoencoder=autoencoder,
        conditions=tuple(_shrink_condition(condition) for condition in config.conditions),
        denoiser=denoiser,
        stages=tuple(_shrink_stage(stage) for stage in config.stages),
        sampling=dataclasses.replace(config.sampling, steps=min(config.sampling.steps, 8)),
    )


def _shrink_condition(condition: Any) -> Any:
    if not (isinstance(condition, Text) and isinstance(condition.encoder, TrainedEncoder)):
        return condition
    encoder = condition.encoder
    small = dataclasses.replace(encoder, width=min(encoder.width, 32), depth=min(encoder.depth, 2), heads=2)
    return dataclasses.replace(condition, encoder=small)


def _shrink_stage(stage: StageConfig) -> StageConfig:
    few = dataclasses.replace(
        stage, steps=min(stage.steps, 24), accumulate=1, log_every=1, warmup=2, sample_every=12, checkpoint_every=8
    )
    if not isinstance(few, AutoencoderTraining):
        return few
    return dataclasses.replace(
        few,
        loss=dataclasses.replace(few.loss, adversarial_start=min(few.loss.adversarial_start, 4)),
        discriminator=dataclasses.replace(few.discriminator, channels=8, layers=1),
    )
