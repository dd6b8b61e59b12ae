"""AutoencoderKL, VQModel and AutoencoderTiny of diffusers."""

from __future__ import annotations

from typing import Any

from ldm_jax.errors import InputError
from ldm_jax.models import (
    Autoencoder,
    AutoencoderConfig,
    TinyAutoencoder,
    TinyAutoencoderConfig,
    VQAutoencoder,
    VQConfig,
)
from ldm_jax.pretrained.formats import Fields, Format
from ldm_jax.pretrained.layouts import CONV, NORM, POINT, Leaf
from ldm_jax.pretrained.names import Numbers, Rule, Table, under
from ldm_jax.pretrained.tables.convolutions import ATTENTION, MIDDLE_RESNET, OLD_ATTENTION, RESNET
from ldm_jax.pretrained.tensors import Tensors

MIDDLE: Table = (
    *under(".mid_block.resnets.0", "/mid_block0", MIDDLE_RESNET),
    *under(".mid_block.attentions.0", "/mid_attention", ATTENTION),
    *under(".mid_block.resnets.1", "/mid_block1", MIDDLE_RESNET),
)
KL: Table = (
    Rule("encoder.conv_in", "encoder/conv_in", CONV),
    *under("encoder.down_blocks.{i}.resnets.{j}", "encoder/down{i}_block{j}", RESNET),
    *under("encoder.down_blocks.{i}.attentions.{j}", "encoder/down{i}_attention{j}", ATTENTION),
    Rule("encoder.down_blocks.{i}.downsamplers.0.conv", "encoder/down{i}_downsample/conv", CONV),
    *under("encoder", "encoder", MIDDLE),
    Rule("encoder.conv_norm_out", "encoder/norm_out/norm", NORM),
    Rule("encoder.conv_out", "encoder/conv_out", CONV),
    Rule("quant_conv", "quant", POINT),
    Rule("post_quant_conv", "post_quant", POINT),
    Rule("decoder.conv_in", "decoder/conv_in", CONV),
    *under("decoder", "decoder", MIDDLE),
    *under("decoder.up_blocks.{~i}.resnets.{j}", "decoder/up{i}_block{j}", RESNET),
    *under("decoder.up_blocks.{~i}.attentions.{j}", "decoder/up{i}_attention{j}", ATTENTION),
    Rule("decoder.up_blocks.{~i}.upsamplers.0.conv", "decoder/up{i}_upsample/conv", CONV),
    Rule("decoder.conv_norm_out", "decoder/norm_out/norm", NORM),
    Rule("decoder.conv_out", "decoder/conv_out", CONV),
)
VQ: Table = (*KL, Rule("quantize.embedding", "codebook", {"": Leaf("weight", "same")}))

DOWN = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
UP = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
STATISTICS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast", "sample_size")
"""Keys of a VAE's config that pipelines read; the network doesn't."""


def _common(fields: Fields) -> dict[str, Any]:
    channels = fields.integers("block_out_channels", (64,))
    if not channels or not channels[0] or any(width % channels[0] for width in channels):
        raise InputError(f"{fields.where}.block_out_channels: {channels} must be multiples of the first")
    down = fields.names("down_block_types", DOWN[:1], DOWN)
    up = fields.names("up_block_types", UP[:1], UP)
    attention = tuple(i for i, name in enumerate(down) if name == DOWN[1])
    if [name == UP[1] for name in reversed(up)] != [name == DOWN[1] for name in down] or len(down) != len(channels):
        raise InputError(f"{fields.where}.up_block_types: {up} must mirror down_block_types, one for each width")
    if fields.integer("out_channels", 3) != fields.integer("in_channels", 3):
        raise InputError(f"{fields.where}.out_channels: must be in_channels")
    fields.only(act_fn="silu", norm_type="group", lookup_from_codebook=False)
    fields.ignore(*STATISTICS)
    return {
        "image_channels": fields.integer("in_channels", 3),
        "channels": channels[0],
        "multipliers": tuple(width // channels[0] for width in channels),
        "blocks": fields.integer("layers_per_block", 1),
        "attention": fields.flag("mid_block_add_attention", True),
        "attention_levels": attention,
        "groups": fields.integer("norm_num_groups", 32),
    }


def _write_common(config: AutoencoderConfig) -> dict[str, Any]:
    levels = range(len(config.multipliers))
    attention = [level in config.attention_levels for level in levels]
    return {
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "down_block_types": [DOWN[flag] for flag in attention],
        "up_block_types": [UP[flag] for flag in reversed(attention)],
        "block_out_channels": [config.channels * multiplier for multiplier in config.multipliers],
        "layers_per_block": config.blocks,
        "act_fn": "silu",
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.groups,
        "mid_block_add_attention": config.attention,
    }


def _is_published(config: AutoencoderConfig) -> bool:
    plain = not (config.sigmoid_output or config.residual_resampling)
    return config.stem == 1 and plain and config.multipliers[0] == 1


def _read_kl(fields: Fields, tensors: Tensors) -> AutoencoderConfig:
    quant = fields.flag("use_quant_conv", True)
    if fields.flag("use_post_quant_conv", True) != quant:
        raise InputError(f"{fields.where}.use_post_quant_conv: must be use_quant_conv ({quant})")
    return AutoencoderConfig(latent_channels=fields.integer("latent_channels", 4), quant_conv=quant, **_common(fields))


def _write_kl(config: AutoencoderConfig) -> dict[str, Any] | None:
    if not _is_published(config):
        return None
    return {
        **_write_common(config),
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.quant_conv,
    }


def _read_vq(fields: Fields, tensors: Tensors) -> VQConfig:
    latents = fields.integer("latent_channels", 3)
    return VQConfig(
        latent_channels=latents,
        codebook_size=fields.integer("num_vq_embeddings", 256),
        codebook_dim=fields.integer("vq_embed_dim", 0) if fields.get("vq_embed_dim") is not None else 0,
        **_common(fields),
    )


def _write_vq(config: VQConfig) -> dict[str, Any] | None:
    if not _is_published(config) or not config.quant_conv:
        return None
    return {
        **_write_common(config),
        "num_vq_embeddings": config.codebook_size,
        "vq_embed_dim": config.codebook_dim or None,
        "norm_type": "group",
    }


def _levels(config: AutoencoderConfig) -> Numbers:
    return Numbers(levels=len(config.multipliers))


AUTOENCODER_KL = Format(
    "AutoencoderKL", Autoencoder, _read_kl, _write_kl, lambda config: KL, _levels, aliases=OLD_ATTENTION
)
VQ_MODEL = Format("VQModel", VQAutoencoder, _read_vq, _write_vq, lambda config: VQ, _levels, aliases=OLD_ATTENTION)


def _tiny_table(config: TinyAutoencoderConfig) -> Table:
    """taesd numbers its layers through; ReLUs and up-samplings count."""
    rows = []

    def residual(published: str, ours: str) -> None:
        rows.extend(Rule(f"{published}.conv.{2 * i}", f"{ours}_conv{i}", CONV) for i in range(3))

    place = 0
    for level, blocks in enumerate(config.encoder_blocks):
        rows.append(Rule(f"encoder.layers.{place}", f"encoder/{f'down{level - 1}' if level else 'conv_in'}", CONV))
        for i in range(blocks):
            residual(f"encoder.layers.{place + 1 + i}", f"encoder/level{level}_block{i}")
        place += 1 + blocks
    rows.append(Rule(f"encoder.layers.{place}", "encoder/conv_out", CONV))

    rows.append(Rule("decoder.layers.0", "decoder/conv_in", CONV))
    place = 2
    for level, blocks in enumerate(config.decoder_blocks):
        last = level == len(config.decoder_blocks) - 1
        for i in range(blocks):
            residual(f"decoder.layers.{place + i}", f"decoder/level{level}_block{i}")
        place += blocks + (not last)
        rows.append(Rule(f"decoder.layers.{place}", f"decoder/{'conv_out' if last else f'up{level}'}", CONV))
        place += 1
    return tuple(rows)


def _read_tiny(fields: Fields, tensors: Tensors) -> TinyAutoencoderConfig:
    fields.only(act_fn="relu", upsampling_scaling_factor=2, upsample_fn="nearest")
    fields.ignore("latent_magnitude", "latent_shift", "block_out_channels", *STATISTICS)
    channels = fields.integer("in_channels", 3)
    if fields.integer("out_channels", 3) != channels:
        raise InputError(f"{fields.where}.out_channels: must be in_channels")
    return TinyAutoencoderConfig(
        image_channels=channels,
        latent_channels=fields.integer("latent_channels", 4),
        encoder_channels=fields.integers("encoder_block_out_channels", (64, 64, 64, 64)),
        encoder_blocks=fields.integers("num_encoder_blocks", (1, 3, 3, 3)),
        decoder_channels=fields.integers("decoder_block_out_channels", (64, 64, 64, 64)),
        decoder_blocks=fields.integers("num_decoder_blocks", (3, 3, 3, 1)),
    )


def _write_tiny(config: TinyAutoencoderConfig) -> dict[str, Any]:
    return {
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "encoder_block_out_channels": list(config.encoder_channels),
        "num_encoder_blocks": list(config.encoder_blocks),
        "decoder_block_out_channels": list(config.decoder_channels),
        "num_decoder_blocks": list(config.decoder_blocks),
        "act_fn": "relu",
        "upsampling_scaling_factor": 2,
    }


AUTOENCODER_TINY = Format(
    "AutoencoderTiny", TinyAutoencoder, _read_tiny, _write_tiny, _tiny_table, lambda config: Numbers()
)
