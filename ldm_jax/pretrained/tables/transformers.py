"""DiTTransformer2DModel and SD3Transformer2DModel of diffusers, and the files of DiT, SiT and LightningDiT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.models import DiT, DiTConfig, MMDiT, MMDiTConfig
from ldm_jax.pretrained.formats import Fields, Format
from ldm_jax.pretrained.layouts import EMBED, LINEAR, NORM, PATCH, TABLE
from ldm_jax.pretrained.names import Numbers, Rule, Table, under
from ldm_jax.pretrained.tensors import Info, Tensors, read

DIFFUSERS_BLOCK: Table = (
    Rule(".norm1.linear", "/modulation", LINEAR),
    Rule((".attn1.to_q", ".attn1.to_k", ".attn1.to_v"), "/qkv", LINEAR),
    Rule(".attn1.to_out.0", "/out", LINEAR),
    Rule(".ff.net.0.proj", "/mlp_in", LINEAR),
    Rule(".ff.net.2", "/mlp_out", LINEAR),
)


def _embedders(block: str, ours: str) -> Table:
    prefix = f"transformer_blocks.{block}.norm1.emb."
    return (
        Rule(prefix + "timestep_embedder.linear_1", f"time{ours}/dense1", LINEAR),
        Rule(prefix + "timestep_embedder.linear_2", f"time{ours}/dense2", LINEAR),
        Rule(prefix + "class_embedder.embedding_table", f"label{ours}", EMBED),
    )


DIFFUSERS: Table = (
    Rule("pos_embed.proj", "patches", PATCH),
    *under("transformer_blocks.{i}", "block{i}", DIFFUSERS_BLOCK),
    Rule("proj_out_1", "modulation", LINEAR),
    Rule("proj_out_2", "out", LINEAR),
)
COPIED, APART = (*DIFFUSERS, *_embedders("{*}", "")), (*DIFFUSERS, *_embedders("{i}", "{i}"))

ORIGINAL: Table = (
    Rule("x_embedder.proj", "patches", PATCH),
    Rule("t_embedder.mlp.0", "time/dense1", LINEAR),
    Rule("t_embedder.mlp.2", "time/dense2", LINEAR),
    Rule("y_embedder.embedding_table", "label", EMBED),
    Rule("blocks.{i}.adaLN_modulation.1", "block{i}/modulation", LINEAR),
    Rule("blocks.{i}.norm1", "block{i}/norm1/norm", NORM),
    Rule("blocks.{i}.attn.qkv", "block{i}/qkv", LINEAR),
    Rule("blocks.{i}.attn.q_norm", "block{i}/q_norm", NORM),
    Rule("blocks.{i}.attn.k_norm", "block{i}/k_norm", NORM),
    Rule("blocks.{i}.attn.proj", "block{i}/out", LINEAR),
    Rule("blocks.{i}.norm2", "block{i}/norm2/norm", NORM),
    Rule("final_layer.adaLN_modulation.1", "modulation", LINEAR),
    Rule("final_layer.norm_final", "norm/norm", NORM),
    Rule("final_layer.linear", "out", LINEAR),
)
"""DiT (facebookresearch/DiT), SiT (willisma/SiT) and LightningDiT (hustvl/LightningDiT)."""
GELU: Table = (
    Rule("blocks.{i}.mlp.fc1", "block{i}/mlp_in", LINEAR),
    Rule("blocks.{i}.mlp.fc2", "block{i}/mlp_out", LINEAR),
)
SWIGLU: Table = (
    Rule("blocks.{i}.mlp.w12", "block{i}/mlp_in", LINEAR),
    Rule("blocks.{i}.mlp.w3", "block{i}/mlp_out", LINEAR),
)


def _read_dit(fields: Fields, tensors: Tensors) -> DiTConfig:
    fields.only(
        activation_fn="gelu-approximate",
        norm_type="ada_norm_zero",
        attention_bias=True,
        norm_elementwise_affine=False,
        upcast_attention=(False, True),
    )
    fields.ignore("dropout", "norm_num_groups")
    heads, depth = fields.integer("num_attention_heads", 16), fields.integer("num_layers", 28)
    channels, out = fields.integer("in_channels", 4), fields.get("out_channels")
    patch = fields.integer("patch_size", 2)
    if not patch:
        raise InputError(f"{fields.where}.patch_size: 0 must be at least 1")
    return DiTConfig(
        in_channels=channels,
        out_channels=channels if out is None else fields.integer("out_channels"),
        patch=patch,
        width=heads * fields.integer("attention_head_dim", 72),
        depth=depth,
        heads=heads,
        num_classes=fields.integer("num_embeds_ada_norm", 1000),
        time_scale=1.0,
        frequency_shift=1.0,
        mlp_norm_epsilon=fields.number("norm_eps", 1e-5),
        base_size=fields.integer("sample_size", 32) // patch,
        block_embedders=not _equal_embedders(tensors, depth),
    )


def _equal_embedders(tensors: Tensors, depth: int) -> bool:
    """Whether every block's copy of the embedders is the same, as in files converted from the original."""
    prefix, names = "transformer_blocks.0.norm1.emb.", list(tensors.info)
    for first in [name for name in names if name.startswith(prefix)]:
        rest = [first.replace("blocks.0.", f"blocks.{i}.", 1) for i in range(1, depth)]
        here = [name for name in rest if name in tensors.info]
        if len(here) < len(rest):
            continue  # a missing tensor is reported where all of them are
        value = read(tensors, first)
        if not all(np.array_equal(value, read(tensors, name)) for name in here):
            return False
    return True


def _write_dit(config: DiTConfig) -> dict[str, Any] | None:
    plain = DiTConfig()
    same = ("norm", "mlp", "rope", "qk_norm", "norm_scale", "scan", "mlp_ratio", "context_dim", "pooled_dim")
    if any(getattr(config, name) != getattr(plain, name) for name in same) or not config.num_classes > 0:
        return None
    if (config.time_scale, config.frequency_shift) != (1.0, 1.0) or not config.base_size:
        return None
    return {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "sample_size": config.base_size * config.patch,
        "patch_size": config.patch,
        "num_embeds_ada_norm": config.num_classes,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": config.mlp_norm_epsilon,
        "attention_bias": True,
    }


DIT_DIFFUSERS = Format(
    "DiTTransformer2DModel",
    DiT,
    _read_dit,
    _write_dit,
    lambda config: APART if config.block_embedders else COPIED,
    lambda config: Numbers(blocks=config.depth, patch=config.patch),
)

ATTENTION: Table = (
    Rule(".to_q", "/query", LINEAR),
    Rule(".to_k", "/key", LINEAR),
    Rule(".to_v", "/value", LINEAR),
    Rule(".norm_q", "/q_norm", NORM),
    Rule(".norm_k", "/k_norm", NORM),
    Rule(".to_out.0", "/out", LINEAR),
)
ADDED: Table = (
    Rule(".add_q_proj", "/query", LINEAR),
    Rule(".add_k_proj", "/key", LINEAR),
    Rule(".add_v_proj", "/value", LINEAR),
    Rule(".norm_added_q", "/q_norm", NORM),
    Rule(".norm_added_k", "/k_norm", NORM),
    Rule(".to_add_out", "/out", LINEAR),
)
JOINT_BLOCK: Table = (
    Rule(".norm1.linear", "/image/modulation", LINEAR),
    *under(".attn", "/image", ATTENTION),
    *under(".attn2", "/image/self_attention", ATTENTION),
    Rule(".ff.net.0.proj", "/image/mlp/in", LINEAR),
    Rule(".ff.net.2", "/image/mlp/out", LINEAR),
    Rule(".norm1_context.linear", "/text/modulation", LINEAR),
    *under(".attn", "/text", ADDED),
    Rule(".ff_context.net.0.proj", "/text/mlp/in", LINEAR),
    Rule(".ff_context.net.2", "/text/mlp/out", LINEAR),
)
JOINT: Table = (
    Rule("pos_embed.proj", "patches", PATCH),
    Rule("pos_embed.pos_embed", "positions", TABLE),
    Rule("time_text_embed.timestep_embedder.linear_1", "time/dense1", LINEAR),
    Rule("time_text_embed.timestep_embedder.linear_2", "time/dense2", LINEAR),
    Rule("time_text_embed.text_embedder.linear_1", "pooled1", LINEAR),
    Rule("time_text_embed.text_embedder.linear_2", "pooled2", LINEAR),
    Rule("context_embedder", "context", LINEAR),
    *under("transformer_blocks.{i}", "block{i}", JOINT_BLOCK),
    Rule("norm_out.linear", "modulation", LINEAR),
    Rule("proj_out", "out", LINEAR),
)


def _read_sd3(fields: Fields, tensors: Tensors) -> MMDiTConfig:
    heads, patch = fields.integer("num_attention_heads", 18), fields.integer("patch_size", 2)
    width = heads * fields.integer("attention_head_dim", 64)
    if fields.integer("caption_projection_dim", 1152) != width or not patch:
        raise InputError(f"{fields.where}.caption_projection_dim: must be heads x head width, {width}")
    fields.only(qk_norm=(None, "rms_norm"))
    channels, out = fields.integer("in_channels", 16), fields.get("out_channels", 16)
    return MMDiTConfig(
        in_channels=channels,
        out_channels=channels if out is None else fields.integer("out_channels", 16),
        patch=patch,
        width=width,
        depth=fields.integer("num_layers", 18),
        heads=heads,
        context_dim=fields.integer("joint_attention_dim", 4096),
        pooled_dim=fields.integer("pooled_projection_dim", 2048),
        positions=fields.integer("pos_embed_max_size", 96),
        base_size=fields.integer("sample_size", 128) // patch,
        time_scale=1.0,
        qk_norm=fields.get("qk_norm") is not None,
        dual_layers=fields.integers("dual_attention_layers", ()),
    )


def _write_sd3(config: MMDiTConfig) -> dict[str, Any] | None:
    if config.num_classes or config.scan or not (config.positions and config.base_size and config.pooled_dim):
        return None
    return {
        "sample_size": config.base_size * config.patch,
        "patch_size": config.patch,
        "in_channels": config.in_channels,
        "num_layers": config.depth,
        "attention_head_dim": config.width // config.heads,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.context_dim,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.pooled_dim,
        "out_channels": config.out_channels,
        "pos_embed_max_size": config.positions,
        "dual_attention_layers": list(config.dual_layers),
        "qk_norm": "rms_norm" if config.qk_norm else None,
    }


SD3 = Format(
    "SD3Transformer2DModel",
    MMDiT,
    _read_sd3,
    _write_sd3,
    lambda config: JOINT,
    lambda config: Numbers(blocks=config.depth, patch=config.patch),
    unpublished={"dtype": "float32", "remat": False, "time_scale": 1.0},
)

PUBLISHED_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Heads of DiT-S, B, L and XL by width."""


def original_table(config: DiTConfig) -> Table:
    """The name map of a DiT, SiT or LightningDiT file."""
    return (*ORIGINAL, *(SWIGLU if config.mlp == "swiglu" else GELU))


def original_config(info: Mapping[str, Info], heads: int | None = None) -> DiTConfig:
    """The network of a DiT, SiT or LightningDiT file, from names and shapes; heads follow from the published widths.

    t is in the network's own units: 0..999 for DiT, 0..1 for SiT and LightningDiT.
    """
    names = ("x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.attn.qkv.weight")
    for name in names:
        if name not in info:
            raise InputError(f"model: the file lacks {name}")
    patches, out = info[names[0]].shape, info[names[1]].shape
    if len(patches) != 4 or len(out) != 2 or not patches[2]:
        raise InputError(f"model: x_embedder.proj.weight has shape {patches}, which is no DiT's")
    width, channels, patch, _ = patches
    if heads is None and width not in PUBLISHED_HEADS:
        raise InputError(f"heads: a DiT of width {width} is none of the published ones; name its heads")
    found = (re.match(r"blocks\.(\d+)\.", name) for name in info)
    depth = max(int(m[1]) for m in found if m) + 1
    labels = info.get("y_embedder.embedding_table.weight")
    rms = "blocks.0.norm1.weight" in info
    return DiTConfig(
        in_channels=channels,
        out_channels=out[0] // patch**2,
        patch=patch,
        width=width,
        depth=depth,
        heads=PUBLISHED_HEADS[width] if heads is None else heads,
        num_classes=labels.shape[0] - 1 if labels else 0,
        norm="rms" if rms else "layer",
        norm_scale=rms,
        mlp="swiglu" if "blocks.0.mlp.w12.weight" in info else "gelu",
        # LightningDiT has RMSNorm and RoPE together in every published config.
        rope=rms,
        qk_norm="blocks.0.attn.q_norm.weight" in info,
        time_scale=1.0,
    )
