"""Names of EfficientNet-Lite0, DINOv2 and CLIP's vision half, whose features are compared."""

from __future__ import annotations

from ldm_jax.pretrained.layouts import ARRAY, BIAS, CONV, LINEAR, NORM, PATCH, TABLE, Layer, Leaf
from ldm_jax.pretrained.names import Rule, Table, under

FROZEN_NORM: Layer = {
    "scale": Leaf("weight", "same"),
    "bias": BIAS,
    "mean": Leaf("running_mean", "same"),
    "var": Leaf("running_var", "same"),
}
COUNTERS = (r".*\.num_batches_tracked",)
"""What PyTorch's batch norms hold beside."""


def conv_norm(convolution: str, norm: str, ours: str) -> Table:
    """A convolution and its batch norm."""
    return Rule(convolution, f"{ours}/conv", CONV), Rule(norm, f"{ours}/norm", FROZEN_NORM)


EFFICIENTNET: Table = (
    *conv_norm("_conv_stem", "_bn0", "stem"),
    *conv_norm("_blocks.{i}._expand_conv", "_blocks.{i}._bn0", "block{i}/expand"),
    *conv_norm("_blocks.{i}._depthwise_conv", "_blocks.{i}._bn1", "block{i}/depthwise"),
    *conv_norm("_blocks.{i}._project_conv", "_blocks.{i}._bn2", "block{i}/project"),
    *conv_norm("_conv_head", "_bn1", "head"),
    Rule("_fc", "classes", LINEAR),
)
DINOV2_BLOCK: Table = (
    Rule(".norm1", "/norm1", NORM),
    *(Rule(f".attn.qkv#{i}/3", f"/attention/{name}", LINEAR) for i, name in enumerate(("query", "key", "value"))),
    Rule(".attn.proj", "/attention/out", LINEAR),
    Rule(".ls1.gamma", "/scale1", ARRAY),
    Rule(".norm2", "/norm2", NORM),
    Rule(".mlp.fc1", "/mlp/in", LINEAR),
    Rule(".mlp.fc2", "/mlp/out", LINEAR),
    Rule(".ls2.gamma", "/scale2", ARRAY),
)
DINOV2: Table = (
    Rule("cls_token", "token", TABLE),
    Rule("pos_embed", "positions", TABLE),
    Rule("patch_embed.proj", "patches", PATCH),
    *under("blocks.{i}", "block{i}", DINOV2_BLOCK),
    Rule("norm", "norm", NORM),
)
"""dinov2_vitl14_pretrain.pth, and the other sizes without registers."""
DINOV2_HF_BLOCK: Table = (
    Rule(".norm1", "/norm1", NORM),
    *(Rule(f".attention.attention.{name}", f"/attention/{name}", LINEAR) for name in ("query", "key", "value")),
    Rule(".attention.output.dense", "/attention/out", LINEAR),
    Rule(".layer_scale1.lambda1", "/scale1", ARRAY),
    Rule(".norm2", "/norm2", NORM),
    Rule(".mlp.fc1", "/mlp/in", LINEAR),
    Rule(".mlp.fc2", "/mlp/out", LINEAR),
    Rule(".layer_scale2.lambda1", "/scale2", ARRAY),
)
DINOV2_HF: Table = (
    Rule("embeddings.cls_token", "token", TABLE),
    Rule("embeddings.position_embeddings", "positions", TABLE),
    Rule("embeddings.patch_embeddings.projection", "patches", PATCH),
    *under("encoder.layer.{i}", "block{i}", DINOV2_HF_BLOCK),
    Rule("layernorm", "norm", NORM),
)
"""transformers' Dinov2Model."""
DINOV2_DERIVED = (r"mask_token", r"embeddings\.mask_token")
"""What only its training used."""
CLIP_VISION: Table = (
    Rule("vision_model.embeddings.class_embedding", "token", ARRAY),
    Rule("vision_model.embeddings.position_embedding.weight", "positions", ARRAY),
    Rule("vision_model.embeddings.patch_embedding", "patches", PATCH),
    Rule("vision_model.pre_layrnorm", "first_norm", NORM),
    *under(
        "vision_model.encoder.layers.{i}",
        "block{i}",
        (
            Rule(".layer_norm1", "/norm1", NORM),
            *(Rule(f".self_attn.{name[0]}_proj", f"/attention/{name}", LINEAR) for name in ("query", "key", "value")),
            Rule(".self_attn.out_proj", "/attention/out", LINEAR),
            Rule(".layer_norm2", "/norm2", NORM),
            Rule(".mlp.fc1", "/mlp/in", LINEAR),
            Rule(".mlp.fc2", "/mlp/out", LINEAR),
        ),
    ),
    Rule("vision_model.post_layernorm", "norm", NORM),
    Rule("visual_projection", "project", LINEAR),
)
"""transformers' CLIPVisionModelWithProjection, and the vision half of its CLIPModel."""
CLIP_DERIVED = (r"vision_model\.embeddings\.position_ids", r"text_model\..*", r"text_projection\..*", r"logit_scale")
