"""Feature spaces in which sets of images are compared: published networks, their weights and their preprocessing."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from ldm_jax.errors import InputError
from ldm_jax.models import VisionTransformerConfig, apply
from ldm_jax.models.inception import SIDE, resize_tensorflow1
from ldm_jax.pretrained.feature_networks import load_clip_vision, load_dinov2, load_efficientnet, load_inception
from ldm_jax.pretrained.weights import Loaded

Outputs = dict[str, Float[Array, "b _"]]
Images = Float[Array, "b h w 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A network with weights: images to vectors."""

    name: str
    """inception, effnet, dinov2 or clip."""
    weights_hash: str
    """sha256 of the file of weights, in hexadecimal."""
    extract: Callable[[Any], Outputs]
    """uint8 images [b h w c] of any size, c 1 or 3 -> float32 arrays [b d] by name; "pool" is always there.

    It is compiled for each shape. Images that are sharded over a mesh are taken apart no further, and the parameters
    are copied to that mesh once.
    """


def _resized(images: Images, side: int) -> Float[Array, "b _ _ 3"]:
    """Square images, bicubic and antialiased, still in [0, 255]; the aspect ratio is not kept."""
    b = images.shape[0]
    return jnp.clip(jax.image.resize(images, (b, side, side, 3), "bicubic", antialias=True), 0.0, 255.0)


def _normalised(images: Images, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Images:
    low, high = (jnp.array(values, jnp.float32).reshape(1, 1, 1, 3) for values in (mean, deviation))
    return (images / 255.0 - low) / high


def _effnet(module: nn.Module, params: Any, images: Images) -> Outputs:
    """224 px, (x - 127) / 128, as in its training; `spatial` is 7 of the 112 channels at 14 x 14, as sFID takes 7."""
    found = apply(module, params, (_resized(images, 224) - 127.0) / 128.0)
    return {"pool": found.pool, "spatial": found.spatial[..., :7].reshape(len(images), -1), "logits": found.logits}


def _inception(module: nn.Module, params: Any, images: Images) -> Outputs:
    """299 px as TensorFlow 1 resizes, (x - 128) / 128, as in Google's graph, torch-fidelity and ADM's evaluator.

    pytorch-fid and StyleGAN's script map to [-1, 1] by 127.5 instead, and the former shifts by half a pixel.
    """
    found = apply(module, params, (resize_tensorflow1(images, SIDE) - 128.0) / 128.0)
    return {**found._asdict(), "spatial": found.spatial.reshape(len(images), -1)}


def _dinov2(module: nn.Module, params: Any, images: Images) -> Outputs:
    """224 px (Stein et al. 2023, arXiv 2306.04675), normalised with ImageNet's mean and deviation."""
    x = _normalised(_resized(images, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return {"pool": apply(module, params, x).pool}


def _clip(module: nn.Module, params: Any, images: Images) -> Outputs:
    """The size of its training (336 px), normalised with CLIP's mean and deviation; `pool` has its own length."""
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    side = module.config.side * module.config.patch  # type: ignore[attr-defined]
    return {"pool": apply(module, params, _normalised(_resized(images, side), mean, deviation)).pool}


VIT_L14 = VisionTransformerConfig()
"""FD-DINOv2 is defined on this size."""
CLIP_L14 = dataclasses.replace(
    VIT_L14,
    side=24,
    activation="quick_gelu",
    epsilon=1e-5,
    patch_bias=False,
    first_norm=True,
    layer_scale=False,
    offset=0.0,
    projection=768,
)
"""CMMD is defined on CLIP ViT-L/14 at 336 px."""


class Recipe(NamedTuple):
    """How a feature space is made."""

    load: Callable[[Any], Loaded]
    outputs: Callable[[nn.Module, Any, Images], Outputs]
    config: VisionTransformerConfig | None = None
    """The only size that the distances of this name are defined on."""


RECIPES: Mapping[str, Recipe] = {
    "inception": Recipe(load_inception, _inception),
    "effnet": Recipe(load_efficientnet, _effnet),
    "dinov2": Recipe(load_dinov2, _dinov2, VIT_L14),
    "clip": Recipe(load_clip_vision, _clip, CLIP_L14),
}
FEATURES = tuple(RECIPES)
"""Names of the feature spaces."""


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_size(name: str, loaded: Loaded, wanted: VisionTransformerConfig) -> None:
    config = loaded.module.config  # type: ignore[attr-defined]
    for field in dataclasses.fields(wanted):
        value, expected = getattr(config, field.name), getattr(wanted, field.name)
        # The way to interpolate is that of the files' own code.
        if value != expected and field.name != "offset":
            raise InputError(
                f"weights: {loaded.file} is of another architecture than ViT-L/{wanted.patch} of {name}: "
                f"its {field.name} is {value}, not {expected}"
            )


def open_features(name: str, path: str | Path | None = None) -> FeatureSpace:
    """The feature space of that name, one of FEATURES.

    path: its weights, see the loaders of `feature_networks`; None where a package brings them (effnet). InputError
    where the name is unknown, where weights must be named (it says where to get them), or where they are of another
    architecture.
    """
    if name not in RECIPES:
        raise InputError(f"features: {name!r} must be one of {', '.join(FEATURES)}")
    recipe = RECIPES[name]
    loaded = recipe.load(path)
    if recipe.config is not None:
        _check_size(name, loaded, recipe.config)

    @jax.jit
    def run(params: Any, images: UInt8[Array, "b h w c"]) -> Outputs:
        # Accelerators would otherwise round what they multiply, and distances would depend on the machine.
        with jax.default_matmul_precision("highest"):
            three = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
            return recipe.outputs(loaded.module, params, three)

    @functools.lru_cache(maxsize=1)
    def placed(mesh: Mesh | None) -> Any:
        return jax.device_put(loaded.params, None if mesh is None else NamedSharding(mesh, PartitionSpec()))

    def extract(images: Any) -> Outputs:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
            raise InputError(f"images: {images.dtype} {images.shape} must be uint8 [b h w c], c 1 or 3, none of them 0")
        sharding = getattr(images, "sharding", None)
        return run(placed(sharding.mesh if isinstance(sharding, NamedSharding) else None), images)

    return FeatureSpace(name, _hash(loaded.file), extract)
