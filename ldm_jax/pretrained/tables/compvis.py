"""CompVis' and Stability's single files: UNet, first stage and text encoders of LDM, SD 1, SD 2 and SDXL, LDM's names.

The files hold no config; it is read off names and shapes. What shapes can't tell is the heads: 8 of them where the
transformers' projections are convolutions (SD 1), 64 features each where they are matrices (SD 2, SDXL), 32 features
each in the plain attention of the unconditional LDMs and of super-resolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.models import AutoencoderConfig, TextEncoderConfig, UNetConfig, VQConfig
from ldm_jax.pretrained.layouts import CONV, EMBED, LINEAR, NORM, POINT, Layer, Leaf
from ldm_jax.pretrained.names import Rule, Table, under
from ldm_jax.pretrained.tables.unet import BLOCK, has_matrices, laid_out
from ldm_jax.pretrained.tensors import Info, Made, Remade, Tensors

RESNET: Table = (
    Rule(".in_layers.0", "/norm1/norm", NORM),
    Rule(".in_layers.2", "/conv1", CONV),
    Rule(".emb_layers.1", "/embedding", LINEAR),
    Rule(".out_layers.0", "/norm2/norm", NORM),
    Rule(".out_layers.3", "/conv2", CONV),
    Rule(".skip_connection", "/shortcut", CONV),
)


def _transformer(projection: Layer) -> Table:
    return (
        Rule(".norm", "/norm/norm", NORM),
        Rule(".proj_in", "/in", projection),
        *under(".transformer_blocks.{k}", "/block{k}", BLOCK),
        Rule(".proj_out", "/out", projection),
    )


PLAIN: Table = (
    Rule(".norm", "/norm/norm", NORM),
    Rule(".q", "/query", LINEAR),
    Rule(".k", "/key", LINEAR),
    Rule(".v", "/value", LINEAR),
    Rule(".proj_out", "/out", LINEAR),
)
"""Plain attention once its qkv is taken apart, see `unet_tensors`."""
HEAD_WIDTH = 32
"""Features of a head in plain attention."""


def unet_table(config: UNetConfig) -> Table:
    """The rows for one config: LDM numbers its blocks through, down-samplings included."""
    transformer = _transformer(LINEAR if has_matrices(config) else POINT) if config.context_dim else PLAIN
    rows = [
        Rule("time_embed.0", "time/dense1", LINEAR),
        Rule("time_embed.2", "time/dense2", LINEAR),
        Rule("label_emb.0.0", "added1", LINEAR),
        Rule("label_emb.0.2", "added2", LINEAR),
        Rule("label_emb", "label", EMBED),
        Rule("input_blocks.0.0", "conv_in", CONV),
        *under("middle_block.0", "mid_block0", RESNET),
        *under("middle_block.1", "mid_attention", transformer),
        *under("middle_block.2", "mid_block1", RESNET),
        Rule("out.0", "norm_out/norm", NORM),
        Rule("out.2", "conv_out", CONV),
    ]
    stride, last = config.blocks + 1, len(config.channels) - 1
    for level, depth in enumerate(config.attention):
        for j in range(config.blocks):
            n = 1 + level * stride + j
            rows.extend(under(f"input_blocks.{n}.0", f"down{level}_block{j}", RESNET))
            rows.extend(under(f"input_blocks.{n}.1", f"down{level}_attention{j}", transformer))
        rows.append(Rule(f"input_blocks.{(level + 1) * stride}.0.op", f"down{level}_downsample/conv", CONV))
        for j in range(stride):
            n = (last - level) * stride + j
            rows.extend(under(f"output_blocks.{n}.0", f"up{level}_block{j}", RESNET))
            rows.extend(under(f"output_blocks.{n}.1", f"up{level}_attention{j}", transformer))
        n = (last - level) * stride + config.blocks
        rows.append(Rule(f"output_blocks.{n}.{2 if depth else 1}.conv", f"up{level}_upsample/conv", CONV))
    return tuple(rows)


def shape_of(info: Mapping[str, Info], name: str) -> tuple[int, ...]:
    """The shape of a tensor; InputError where the file lacks it."""
    if name not in info:
        raise InputError(f"model: the file lacks {name}")
    return info[name].shape


def count(info: Mapping[str, Info], pattern: str) -> int:
    """One more than the largest number that the pattern's group finds, 0 for none."""
    found = (re.match(pattern, name) for name in info)
    return max((int(m[1]) + 1 for m in found if m), default=0)


def unet_config(info: Mapping[str, Info]) -> UNetConfig:
    """The UNet of a file, from names (without `model.diffusion_model.`) and shapes."""
    first = shape_of(info, "input_blocks.0.0.weight")
    channels, attention, blocks, n = [], [], [], 0
    plain = "middle_block.1.qkv.weight" in info
    for place in range(1, count(info, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{place}.0.op.weight" in info:
            blocks.append(n)
            n = 0
            continue
        width = shape_of(info, f"input_blocks.{place}.0.in_layers.2.weight")[0]
        if shape_of(info, f"input_blocks.{place}.0.emb_layers.1.weight")[0] != width:
            raise InputError("model: the file's UNet scales and shifts by its embedding, which is not known here")
        depth = count(info, rf"input_blocks\.{place}\.1\.transformer_blocks\.(\d+)\.")
        depth = int(f"input_blocks.{place}.1.qkv.weight" in info) if plain else depth
        if n == 0:
            channels.append(width)
            attention.append(depth)
        n += 1
    blocks.append(n)
    if len(set(blocks)) != 1 or not channels or len(channels) != len(blocks) or len(first) != 4:
        raise InputError("model: the file's input_blocks are those of no UNet of LDM")
    out = shape_of(info, "out.2.weight")[0]
    if plain:
        return UNetConfig(
            in_channels=first[1],
            out_channels=out,
            channels=tuple(channels),
            blocks=blocks[0],
            attention=tuple(attention),
            heads=tuple(max(c // HEAD_WIDTH, 1) for c in channels),
            context_dim=0,
            time_scale=1.0,
        )
    linear = len(shape_of(info, "middle_block.1.proj_in.weight")) == 2
    added = info.get("label_emb.0.0.weight")
    heads = tuple(c // 64 if linear and c % 64 == 0 else 8 for c in channels)
    config = UNetConfig(
        in_channels=first[1],
        out_channels=out,
        channels=tuple(channels),
        blocks=blocks[0],
        attention=tuple(attention),
        mid_attention=count(info, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
        heads=heads,
        context_dim=shape_of(info, "middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1],
        class_rows=info["label_emb.weight"].shape[0] if "label_emb.weight" in info else 0,
        added_dim=added.shape[1] if added else 0,
        time_scale=1.0,
    )
    return laid_out(config, linear_projection=linear)


def unet_tensors(tensors: Tensors, config: UNetConfig) -> Tensors:
    """The tensors with qkv taken apart: each head has its queries, keys and values together (QKVAttentionLegacy)."""
    made = {}
    for name, (_, shape) in tensors.info.items():
        if not (found := re.fullmatch(r"(.*)\.qkv\.(weight|bias)", name)) or config.context_dim:
            continue
        rows = shape[0] // 3 if shape else 0
        heads = max(rows // HEAD_WIDTH, 1)
        if not shape or shape[0] % (3 * heads):
            raise InputError(f"model: {name} has shape {shape}, which is no attention's")
        for k, letter in enumerate("qkv"):

            def take(array: np.ndarray, k: int = k, heads: int = heads, rows: int = rows) -> np.ndarray:
                return array.reshape(heads, 3, rows // heads, -1)[:, k].reshape(rows, *array.shape[1:])

            made[f"{found[1]}.{letter}.{found[2]}"] = Made(name, (rows, *shape[1:]), take)
    return Remade(tensors, made) if made else tensors


STAGE_RESNET: Table = (
    Rule(".norm1", "/norm1/norm", NORM),
    Rule(".conv1", "/conv1", CONV),
    Rule(".norm2", "/norm2/norm", NORM),
    Rule(".conv2", "/conv2", CONV),
    Rule(".nin_shortcut", "/shortcut", CONV),
)
STAGE_ATTENTION: Table = (
    Rule(".norm", "/norm/norm", NORM),
    Rule(".q", "/query", POINT),
    Rule(".k", "/key", POINT),
    Rule(".v", "/value", POINT),
    Rule(".proj_out", "/out", POINT),
)
STAGE_MIDDLE: Table = (
    *under(".mid.block_1", "/mid_block0", STAGE_RESNET),
    *under(".mid.attn_1", "/mid_attention", STAGE_ATTENTION),
    *under(".mid.block_2", "/mid_block1", STAGE_RESNET),
)
FIRST_STAGE: Table = (
    Rule("encoder.conv_in", "encoder/conv_in", CONV),
    *under("encoder.down.{i}.block.{j}", "encoder/down{i}_block{j}", STAGE_RESNET),
    *under("encoder.down.{i}.attn.{j}", "encoder/down{i}_attention{j}", STAGE_ATTENTION),
    Rule("encoder.down.{i}.downsample.conv", "encoder/down{i}_downsample/conv", CONV),
    *under("encoder", "encoder", STAGE_MIDDLE),
    Rule("encoder.norm_out", "encoder/norm_out/norm", NORM),
    Rule("encoder.conv_out", "encoder/conv_out", CONV),
    Rule("quant_conv", "quant", POINT),
    Rule("post_quant_conv", "post_quant", POINT),
    Rule("decoder.conv_in", "decoder/conv_in", CONV),
    *under("decoder", "decoder", STAGE_MIDDLE),
    *under("decoder.up.{i}.block.{j}", "decoder/up{i}_block{j}", STAGE_RESNET),
    *under("decoder.up.{i}.attn.{j}", "decoder/up{i}_attention{j}", STAGE_ATTENTION),
    Rule("decoder.up.{i}.upsample.conv", "decoder/up{i}_upsample/conv", CONV),
    Rule("decoder.norm_out", "decoder/norm_out/norm", NORM),
    Rule("decoder.conv_out", "decoder/conv_out", CONV),
    Rule("quantize.embedding", "codebook", {"": Leaf("weight", "same")}),
)
"""LDM counts the decoder's levels from the finest, as we do; diffusers counts them from the coarsest."""


def first_stage_config(info: Mapping[str, Info]) -> AutoencoderConfig:
    """The KL or VQ autoencoder of a file, from names (without `first_stage_model.`) and shapes."""
    first = shape_of(info, "encoder.conv_in.weight")
    levels = count(info, r"encoder\.down\.(\d+)\.")
    widths = [shape_of(info, f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)]
    book = info.get("quantize.embedding.weight")
    latents = shape_of(info, "encoder.conv_out.weight")[0] // (1 if book else 2)
    if not widths or any(width % first[0] for width in widths):
        raise InputError("model: the file's first stage is no autoencoder of LDM")
    groups = 32 if first[0] % 32 == 0 else 4
    shared = {
        "image_channels": first[1],
        "latent_channels": latents,
        "channels": first[0],
        "multipliers": tuple(width // first[0] for width in widths),
        "blocks": count(info, r"encoder\.down\.0\.block\.(\d+)\."),
        "attention": "encoder.mid.attn_1.q.weight" in info,
        "attention_levels": tuple(i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in info),
        "groups": groups,
        "quant_conv": "quant_conv.weight" in info,
    }
    if book is None:
        return AutoencoderConfig(**shared)
    if len(book.shape) != 2:
        raise InputError(f"model: quantize.embedding.weight has shape {book.shape}, which is no codebook's")
    size, dim = book.shape
    return VQConfig(**shared, codebook_size=size, codebook_dim=0 if dim == latents else dim)


def _third(k: int) -> Table:
    leaves: Layer = {"kernel": Leaf("_weight", "linear"), "bias": Leaf("_bias", "same")}
    return (Rule(f".attn.in_proj#{k}/3", f"/attention/{('query', 'key', 'value')[k]}", leaves),)


OPEN_CLIP_BLOCK: Table = (
    Rule(".ln_1", "/norm1", NORM),
    *_third(0),
    *_third(1),
    *_third(2),
    Rule(".attn.out_proj", "/attention/out", LINEAR),
    Rule(".ln_2", "/norm3", NORM),
    Rule(".mlp.c_fc", "/mlp/in", LINEAR),
    Rule(".mlp.c_proj", "/mlp/out", LINEAR),
)
OPEN_CLIP: Table = (
    Rule("token_embedding", "tokens", EMBED),
    Rule("positional_embedding", "places", {"embedding": Leaf("", "same")}),
    *under("transformer.resblocks.{i}", "block{i}", OPEN_CLIP_BLOCK),
    Rule("ln_final", "norm", NORM),
    Rule("text_projection", "project", {"kernel": Leaf("", "same")}),
)
"""OpenCLIP keeps the projection as [in, out], not transposed; one matrix holds queries, keys and values."""
OPEN_CLIP_DERIVED = (r"logit_scale", r"attn_mask")


def open_clip_config(info: Mapping[str, Info]) -> TextEncoderConfig:
    """An OpenCLIP text encoder (SD 2, SDXL's second), from names and shapes; heads have 64 features."""
    vocabulary, width = shape_of(info, "token_embedding.weight")
    projection = info.get("text_projection")
    return TextEncoderConfig(
        vocabulary=vocabulary,
        positions=shape_of(info, "positional_embedding")[0],
        width=width,
        depth=count(info, r"transformer\.resblocks\.(\d+)\."),
        heads=max(width // 64, 1),
        hidden=shape_of(info, "transformer.resblocks.0.mlp.c_fc.weight")[0],
        activation="gelu",
        projection=projection.shape[1] if projection else 0,
        end_id=vocabulary - 1,
        start_id=vocabulary - 2,
        pad_id=0,
    )


def clip_config(info: Mapping[str, Info]) -> TextEncoderConfig:
    """OpenAI's CLIP text encoder (SD 1, SDXL's first) under transformers' names; heads have 64 features."""
    vocabulary, width = shape_of(info, "text_model.embeddings.token_embedding.weight")
    return TextEncoderConfig(
        vocabulary=vocabulary,
        positions=shape_of(info, "text_model.embeddings.position_embedding.weight")[0],
        width=width,
        depth=count(info, r"text_model\.encoder\.layers\.(\d+)\."),
        heads=max(width // 64, 1),
        hidden=shape_of(info, "text_model.encoder.layers.0.mlp.fc1.weight")[0],
        end_id=vocabulary - 1,
        start_id=vocabulary - 2,
        pad_id=vocabulary - 1,
    )
