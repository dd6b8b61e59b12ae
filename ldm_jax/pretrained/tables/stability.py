"""Stability's single files of SD3 and SD3.5: the MMDiT under the names of its reference code, two CLIPs and T5.

The config is read off names and shapes; heads have 64 features, as in every published one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.models import MMDiTConfig, T5Config, TextEncoderConfig
from ldm_jax.pretrained.layouts import LINEAR, NORM, PATCH, TABLE
from ldm_jax.pretrained.names import Rule, Table, under
from ldm_jax.pretrained.tables.compvis import clip_config, count, shape_of
from ldm_jax.pretrained.tensors import Info, Made, Remade, Tensors

ATTENTION: Table = (
    *(Rule(f".qkv#{k}/3", f"/{part}", LINEAR) for k, part in enumerate(("query", "key", "value"))),
    Rule(".ln_q", "/q_norm", NORM),
    Rule(".ln_k", "/k_norm", NORM),
    Rule(".proj", "/out", LINEAR),
)
STREAM: Table = (
    Rule(".adaLN_modulation.1", "/modulation", LINEAR),
    *under(".attn", "", ATTENTION),
    *under(".attn2", "/self_attention", ATTENTION),
    Rule(".mlp.fc1", "/mlp/in", LINEAR),
    Rule(".mlp.fc2", "/mlp/out", LINEAR),
)
MMDIT: Table = (
    Rule("x_embedder.proj", "patches", PATCH),
    Rule("pos_embed", "positions", TABLE),
    Rule("t_embedder.mlp.0", "time/dense1", LINEAR),
    Rule("t_embedder.mlp.2", "time/dense2", LINEAR),
    Rule("y_embedder.mlp.0", "pooled1", LINEAR),
    Rule("y_embedder.mlp.2", "pooled2", LINEAR),
    Rule("context_embedder", "context", LINEAR),
    *under("joint_blocks.{i}.x_block", "block{i}/image", STREAM),
    *under("joint_blocks.{i}.context_block", "block{i}/text", STREAM),
    Rule("final_layer.adaLN_modulation.1", "modulation", LINEAR),
    Rule("final_layer.linear", "out", LINEAR),
)


def is_mmdit(info: Mapping[str, Info]) -> bool:
    """Whether names (without `model.diffusion_model.`) are those of SD3's network."""
    return "joint_blocks.0.x_block.attn.qkv.weight" in info


def mmdit_config(info: Mapping[str, Info]) -> MMDiTConfig:
    """The MMDiT of a file, from names and shapes."""
    patches, places = shape_of(info, "x_embedder.proj.weight"), shape_of(info, "pos_embed")
    if len(patches) != 4 or len(places) != 3 or not patches[2] or patches[0] % 64:
        raise InputError(f"model: x_embedder.proj.weight has shape {patches}, which is no MMDiT's")
    depth = count(info, r"joint_blocks\.(\d+)\.")
    return MMDiTConfig(
        in_channels=patches[1],
        out_channels=shape_of(info, "final_layer.linear.weight")[0] // patches[2] ** 2,
        patch=patches[2],
        width=patches[0],
        depth=depth,
        heads=patches[0] // 64,
        context_dim=shape_of(info, "context_embedder.weight")[1],
        pooled_dim=shape_of(info, "y_embedder.mlp.0.weight")[1],
        time_scale=1.0,
        positions=math.isqrt(places[1]),
        base_size=64,
        qk_norm="joint_blocks.0.x_block.attn.ln_q.weight" in info,
        dual_layers=tuple(i for i in range(depth) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in info),
    )


def _swapped(array: np.ndarray) -> np.ndarray:
    return np.roll(array, len(array) // 2, axis=0)


def mmdit_tensors(tensors: Tensors, config: MMDiTConfig) -> Tensors:
    """The tensors with scale before shift where the last modulations have shift before scale."""
    made = {}
    for name in (f"joint_blocks.{config.depth - 1}.context_block", "final_layer"):
        for leaf in ("weight", "bias"):
            whole = f"{name}.adaLN_modulation.1.{leaf}"
            if whole in tensors.info:
                made[whole] = Made(whole, tensors.info[whole].shape, _swapped)
    return Remade(tensors, made)


def projected_clip_config(info: Mapping[str, Info]) -> TextEncoderConfig:
    """One of SD3's CLIPs under transformers' names: OpenAI's (768 wide, fills up with its end token) or OpenCLIP's.

    Where the projection is missing it is the identity, as in the files of OpenAI's that have none.
    """
    config = clip_config(info)
    projection = info.get("text_projection.weight")
    small = config.width <= 768
    return dataclasses.replace(
        config,
        projection=projection.shape[0] if projection and projection.shape else 0,
        activation="quick_gelu" if small else "gelu",
        pad_id=config.pad_id if small else 0,
    )


def projected_clip_table(config: TextEncoderConfig) -> Table:
    """transformers' names; see `tables.text`."""
    from ldm_jax.pretrained.tables.text import CLIP, CLIP_PROJECTION

    return CLIP_PROJECTION if config.projection else CLIP


def t5_config(info: Mapping[str, Info]) -> T5Config:
    """T5 v1.1's encoder under transformers' names, from shapes."""
    (vocabulary, width), first = shape_of(info, "shared.weight"), "encoder.block.0.layer"
    buckets, heads = shape_of(info, f"{first}.0.SelfAttention.relative_attention_bias.weight")
    return T5Config(
        vocabulary=vocabulary,
        width=width,
        depth=count(info, r"encoder\.block\.(\d+)\."),
        heads=heads,
        head_dim=shape_of(info, f"{first}.0.SelfAttention.q.weight")[0] // max(heads, 1),
        hidden=shape_of(info, f"{first}.1.DenseReluDense.wi_0.weight")[0],
        buckets=buckets,
    )
