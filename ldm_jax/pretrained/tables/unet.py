"""UNet2DConditionModel (Stable Diffusion, SDXL, upscalers) and UNet2DModel (unconditional LDM) of diffusers."""

from __future__ import annotations

import dataclasses
from typing import Any

from ldm_jax.errors import InputError
from ldm_jax.models import UNet, UNetConfig
from ldm_jax.pretrained.formats import Fields, Format
from ldm_jax.pretrained.layouts import CONV, EMBED, LINEAR, NORM, POINT, Layer
from ldm_jax.pretrained.names import Numbers, Rule, Table, under
from ldm_jax.pretrained.tables.convolutions import ATTENTION, MIDDLE_RESNET, OLD_ATTENTION, RESNET, TIME
from ldm_jax.pretrained.tensors import Tensors


@dataclasses.dataclass(frozen=True)
class PublishedUNetConfig(UNetConfig):
    """A UNet whose published file is laid out unlike that of SD 1; the network is the same, so UNetConfig has no place
    for these, and they only matter where it is saved again."""

    linear_projection: bool = False
    """The file holds the transformers' projections as matrices, not as 1x1 convolutions; same arithmetic."""
    upcast_attention: bool = False
    """The config (SD 2.1) asks for float32 logits in attention; ours has them always."""


def laid_out(config: UNetConfig, linear_projection: bool = False, upcast_attention: bool = False) -> UNetConfig:
    """The config with what its file's layout says; the config itself where that is SD 1's."""
    if not linear_projection and not upcast_attention:
        return config
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(UNetConfig)}
    return PublishedUNetConfig(**fields, linear_projection=linear_projection, upcast_attention=upcast_attention)


def has_matrices(config: UNetConfig) -> bool:
    """Whether the transformers' projections are matrices in the published file."""
    return isinstance(config, PublishedUNetConfig) and config.linear_projection


PROJECTIONS: Table = (
    Rule(".to_q", "/query", LINEAR),
    Rule(".to_k", "/key", LINEAR),
    Rule(".to_v", "/value", LINEAR),
    Rule(".to_out.0", "/out", LINEAR),
)
BLOCK: Table = (
    Rule(".norm1", "/norm1", NORM),
    *under(".attn1", "/attention", PROJECTIONS),
    Rule(".norm2", "/norm2", NORM),
    *under(".attn2", "/cross", PROJECTIONS),
    Rule(".norm3", "/norm3", NORM),
    Rule(".ff.net.0.proj", "/mlp/in", LINEAR),
    Rule(".ff.net.2", "/mlp/out", LINEAR),
)


def _transformer(projection: Layer) -> Table:
    return (
        Rule(".norm", "/norm/norm", NORM),
        Rule(".proj_in", "/in", projection),
        *under(".transformer_blocks.{k}", "/block{k}", BLOCK),
        Rule(".proj_out", "/out", projection),
    )


def _unet(attention: Table) -> Table:
    return (
        Rule("conv_in", "conv_in", CONV),
        Rule("time_embedding.linear_1", "time/dense1", LINEAR),
        Rule("time_embedding.linear_2", "time/dense2", LINEAR),
        Rule("time_embedding.cond_proj", "time/guidance", LINEAR),
        Rule("class_embedding", "label", EMBED),
        Rule("add_embedding.linear_1", "added1", LINEAR),
        Rule("add_embedding.linear_2", "added2", LINEAR),
        *under("down_blocks.{i}.resnets.{j}", "down{i}_block{j}", (*RESNET, *TIME)),
        *under("down_blocks.{i}.attentions.{j}", "down{i}_attention{j}", attention),
        Rule("down_blocks.{i}.downsamplers.0.conv", "down{i}_downsample/conv", CONV),
        *under("mid_block.resnets.0", "mid_block0", (*MIDDLE_RESNET, *TIME)),
        *under("mid_block.attentions.0", "mid_attention", attention),
        *under("mid_block.resnets.1", "mid_block1", (*MIDDLE_RESNET, *TIME)),
        *under("up_blocks.{~i}.resnets.{j}", "up{i}_block{j}", (*RESNET, *TIME)),
        *under("up_blocks.{~i}.attentions.{j}", "up{i}_attention{j}", attention),
        Rule("up_blocks.{~i}.upsamplers.0.conv", "up{i}_upsample/conv", CONV),
        Rule("conv_norm_out", "norm_out/norm", NORM),
        Rule("conv_out", "conv_out", CONV),
    )


CONVOLUTIONAL, LINEAR_PROJECTIONS, PLAIN = _unet(_transformer(POINT)), _unet(_transformer(LINEAR)), _unet(ATTENTION)
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
PLAIN_DOWN, PLAIN_UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")


def _attended(fields: Fields, down: tuple[str, str], up: tuple[str, str], default: tuple[bool, ...]) -> list[bool]:
    downs = fields.names("down_block_types", tuple(down[flag] for flag in default), down)
    ups = fields.names("up_block_types", tuple(up[flag] for flag in reversed(default)), up)
    attended = [name == down[1] for name in downs]
    if [name == up[1] for name in reversed(ups)] != attended:
        raise InputError(f"{fields.where}.up_block_types: {ups} must mirror down_block_types {downs}")
    return attended


def _shared(fields: Fields) -> dict[str, Any]:
    fields.only(
        center_input_sample=False,
        time_embedding_type="positional",
        downsample_padding=1,
        mid_block_scale_factor=(1, 1.0),
        act_fn="silu",
        resnet_time_scale_shift="default",
    )
    fields.ignore("sample_size", "dropout")
    width = fields.get("time_embedding_dim")
    if width not in (None, 4 * fields.integers("block_out_channels", ())[0]):
        raise InputError(f"{fields.where}.time_embedding_dim: {width} must be four times the first width")
    rows = fields.get("num_class_embeds")
    return {
        "groups": fields.integer("norm_num_groups", 32),
        "epsilon": fields.number("norm_eps", 1e-5),
        "frequency_shift": fields.number("freq_shift", 0.0),
        "sine_first": not fields.flag("flip_sin_to_cos", True),
        "time_scale": 1.0,
        "class_rows": 0 if rows is None else fields.integer("num_class_embeds"),
    }


def _read_condition(fields: Fields, tensors: Tensors) -> UNetConfig:
    channels = fields.integers("block_out_channels", (320, 640, 1280, 1280))
    n = len(channels)
    attended = _attended(fields, DOWN, UP, (True,) * (n - 1) + (False,))
    # The key that counts heads is called attention_head_dim: an old mistake that 40,000 configs now depend on.
    key = "attention_head_dim" if fields.get("num_attention_heads") is None else "num_attention_heads"
    heads = fields.integers(key, 8, n)
    depths = fields.integers("transformer_layers_per_block", 1, n)
    fields.get("attention_head_dim")
    blocks = fields.integers("layers_per_block", 2, n)
    if len(set(blocks)) != 1 or len(attended) != n:
        raise InputError(f"{fields.where}.layers_per_block: {blocks} must be equal, one for each width and block type")
    context = fields.integers("cross_attention_dim", 1280, n)
    if len(set(context)) != 1:
        raise InputError(f"{fields.where}.cross_attention_dim: {context} must be equal")
    added, ids = 0, 256
    guidance = 0 if fields.get("time_cond_proj_dim") is None else fields.integer("time_cond_proj_dim")
    if fields.get("addition_embed_type") is not None:
        fields.only(addition_embed_type="text_time")
        added = fields.integer("projection_class_embeddings_input_dim")
        ids = fields.integer("addition_time_embed_dim")
    fields.only(
        mid_block_type="UNetMidBlock2DCrossAttn",
        mid_block_only_cross_attention=(None, False),
        conv_in_kernel=3,
        conv_out_kernel=3,
        attention_type="default",
        resnet_out_scale_factor=(1, 1.0),
    )
    fields.ignore("addition_embed_type_num_heads", "addition_time_embed_dim")
    config = UNetConfig(
        in_channels=fields.integer("in_channels", 4),
        out_channels=fields.integer("out_channels", 4),
        channels=channels,
        blocks=blocks[0],
        attention=tuple(depth if flag else 0 for depth, flag in zip(depths, attended, strict=True)),
        mid_attention=depths[-1],
        heads=heads,
        context_dim=context[0],
        context_twice=_twice(fields, n),
        added_dim=added,
        time_ids_dim=ids,
        guidance_dim=guidance,
        **_shared(fields),
    )
    return laid_out(config, fields.flag("use_linear_projection"), fields.flag("upcast_attention"))


def _twice(fields: Fields, levels: int) -> tuple[bool, ...]:
    """Levels whose blocks attend to the context alone; a list, for true alone would mean the middle, too."""
    value = fields.get("only_cross_attention") or [False] * levels
    if not isinstance(value, list) or [type(one) for one in value] != [bool] * levels:
        raise InputError(f"{fields.where}.only_cross_attention: {value!r} must be false or {levels} of true and false")
    return tuple(value) if any(value) else ()


def _write_shared(config: UNetConfig, down: tuple[str, str], up: tuple[str, str]) -> dict[str, Any]:
    attended = [depth > 0 for depth in config.attention]
    shift = config.frequency_shift
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "center_input_sample": False,
        "flip_sin_to_cos": not config.sine_first,
        "freq_shift": int(shift) if shift == int(shift) else shift,
        "down_block_types": [down[flag] for flag in attended],
        "up_block_types": [up[flag] for flag in reversed(attended)],
        "block_out_channels": list(config.channels),
        "layers_per_block": config.blocks,
        "downsample_padding": 1,
        "act_fn": "silu",
        "norm_num_groups": config.groups,
        "norm_eps": config.epsilon,
        "num_class_embeds": config.label_rows or None,
    }


def _one(values: tuple[int, ...]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def _write_condition(config: UNetConfig) -> dict[str, Any] | None:
    if not config.context_dim or not config.mid_attention:
        return None
    # A level without attention has a depth in published configs all the same: that of its neighbours, or 1.
    depths = tuple(depth or 1 for depth in config.attention)
    if config.attention[-1] == 0:
        depths = (*depths[:-1], config.mid_attention)
    if depths[-1] != config.mid_attention:
        return None
    return {
        **_write_shared(config, DOWN, UP),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "cross_attention_dim": config.context_dim,
        "transformer_layers_per_block": _one(depths),
        "attention_head_dim": _one(config.heads),
        "only_cross_attention": list(config.context_twice) or False,
        "use_linear_projection": has_matrices(config),
        "upcast_attention": isinstance(config, PublishedUNetConfig) and config.upcast_attention,
        "addition_embed_type": "text_time" if config.added_dim else None,
        "addition_time_embed_dim": config.time_ids_dim if config.added_dim else None,
        "projection_class_embeddings_input_dim": config.added_dim or None,
        "time_cond_proj_dim": config.guidance_dim or None,
    }


def _read_plain(fields: Fields, tensors: Tensors) -> UNetConfig:
    channels = fields.integers("block_out_channels", (224, 448, 672, 896))
    attended = _attended(fields, PLAIN_DOWN, PLAIN_UP, (False, *(True,) * (len(channels) - 1)))
    if len(attended) != len(channels):
        raise InputError(f"{fields.where}.down_block_types: must be as many as block_out_channels")
    # Here attention_head_dim is what it says, the features of a head; null: one head.
    width = fields.get("attention_head_dim", 8)
    mid = fields.flag("add_attention", True)
    heads = []
    for channel, flag in zip(channels, [*attended[:-1], attended[-1] or mid], strict=True):
        dim = channel if width is None else fields.integer("attention_head_dim", 8)
        if flag and (not dim or channel % dim):
            raise InputError(f"{fields.where}.attention_head_dim: {dim} must divide {channel}")
        heads.append(channel // dim if flag or not channel % max(dim, 1) else 1)
    fields.only(mid_block_type="UNetMidBlock2D", downsample_type="conv", upsample_type="conv")
    groups = fields.get("norm_num_groups", 32)
    fields.only(attn_norm_num_groups=(None, groups))
    fields.ignore("num_train_timesteps")
    return UNetConfig(
        in_channels=fields.integer("in_channels", 3),
        out_channels=fields.integer("out_channels", 3),
        channels=channels,
        blocks=fields.integer("layers_per_block", 2),
        attention=tuple(map(int, attended)),
        mid_attention=int(mid),
        heads=tuple(heads),
        context_dim=0,
        **_shared(fields),
    )


def _write_plain(config: UNetConfig) -> dict[str, Any] | None:
    used = [depth > 0 for depth in config.attention]
    used[-1] = used[-1] or config.mid_attention > 0
    dims = {c // h for c, h, flag in zip(config.channels, config.heads, used, strict=True) if flag}
    alone = all(h == 1 for h, flag in zip(config.heads, used, strict=True) if flag)
    if config.context_dim or config.added_dim or (len(dims) > 1 and not alone):
        return None
    return {
        **_write_shared(config, PLAIN_DOWN, PLAIN_UP),
        "mid_block_type": "UNetMidBlock2D",
        "add_attention": bool(config.mid_attention),
        "attention_head_dim": dims.pop() if len(dims) == 1 else None,
    }


UNPUBLISHED = {"dtype": "float32", "remat": False, "num_classes": 0, "time_scale": 1.0}
"""diffusers reads a UNet that we trained, and has to be given its labels and a t of 0 to 1000."""


def _levels(config: UNetConfig) -> Numbers:
    return Numbers(levels=len(config.channels))


UNET_CONDITION = Format(
    "UNet2DConditionModel",
    UNet,
    _read_condition,
    _write_condition,
    lambda config: LINEAR_PROJECTIONS if has_matrices(config) else CONVOLUTIONAL,
    _levels,
    unpublished=UNPUBLISHED,
)
UNET_PLAIN = Format(
    "UNet2DModel",
    UNet,
    _read_plain,
    _write_plain,
    lambda config: PLAIN,
    _levels,
    aliases=OLD_ATTENTION,
    unpublished=UNPUBLISHED,
)
