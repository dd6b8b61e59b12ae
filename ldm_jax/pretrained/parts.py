"""One component folder: config.json + safetensors, as diffusers and transformers have for every part of a pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ldm_jax import models
from ldm_jax.errors import InputError
from ldm_jax.pretrained.filling import check, compare, fill, refuse, renamed
from ldm_jax.pretrained.folders import find_weights, open_file
from ldm_jax.pretrained.formats import Fields, Format
from ldm_jax.pretrained.names import Source, sources
from ldm_jax.pretrained.tables import FORMATS, format_of
from ldm_jax.pretrained.tensors import Info, Tensors, read_json
from ldm_jax.pretrained.writing import write_json, write_safetensors
from ldm_jax.serialization import from_tree

WEIGHTS = "diffusion_pytorch_model.safetensors"

CLASSES: dict[str, tuple[type[nn.Module], type]] = {
    "ldm_jax.Autoencoder": (models.Autoencoder, models.AutoencoderConfig),
    "ldm_jax.VQAutoencoder": (models.VQAutoencoder, models.VQConfig),
    "ldm_jax.FSQAutoencoder": (models.FSQAutoencoder, models.FSQConfig),
    "ldm_jax.TinyAutoencoder": (models.TinyAutoencoder, models.TinyAutoencoderConfig),
    "ldm_jax.DiT": (models.DiT, models.DiTConfig),
    "ldm_jax.UNet": (models.UNet, models.UNetConfig),
    "ldm_jax.MMDiT": (models.MMDiT, models.MMDiTConfig),
    "ldm_jax.TextEncoder": (models.TextEncoder, models.TextEncoderConfig),
    "ldm_jax.T5Encoder": (models.T5Encoder, models.T5Config),
    "ldm_jax.BoxEncoder": (models.BoxEncoder, models.BoxEncoderConfig),
}
"""Our own format, for networks that nobody else has."""
OURS = "_ldm_jax"
"""Key of a published config.json for the fields of ours without a place in it; others skip names with underscores."""


class Opened(NamedTuple):
    """A folder or file looked at, nothing read: what load_part reads and `convert` reports."""

    module: nn.Module
    tensors: Tensors
    wanted: dict[str, Source]
    derived: tuple[str, ...]
    where: str


def class_name(record: dict[str, Any], folder: Path) -> str:
    """The class that a config.json names: _class_name (diffusers), architectures or model_type (transformers)."""
    architectures = record.get("architectures")
    types = {"clip_text_model": "CLIPTextModel", "bert": "BertModel", "ldmbert": "LDMBertModel"}
    model_type = record.get("model_type")
    named = [record.get("_class_name"), *(architectures if isinstance(architectures, list) else [])]
    named.append(types.get(model_type) if isinstance(model_type, str) else None)
    for name in named:
        if isinstance(name, str) and (name in CLASSES or name in FORMATS):
            return name
    known = ", ".join([*CLASSES, *FORMATS])
    found = next((name for name in named if name is not None), None)
    raise InputError(f"model: _class_name {found!r} of {folder} is not one of {known}")


def open_part(folder: str | Path, variant: str | None = None) -> Opened:
    """The network that a folder's config describes, and its tensors, not yet read."""
    folder = Path(folder)
    record = read_json(folder / "config.json")
    name = class_name(record, folder)
    path = find_weights(folder, variant)
    tensors = open_file(path)
    if name in CLASSES:
        module_class, config_class = CLASSES[name]
        fields = {field.name for field in dataclasses.fields(config_class)}
        config = from_tree(config_class, {k: v for k, v in record.items() if k in fields}, f"{folder.name}.")
        module = module_class(config)  # type: ignore[call-arg]
        rank = record.get("rank", 2)
        if rank not in (1, 2, 3):
            raise InputError(f"{folder.name}.rank: {rank!r} must be 1, 2 or 3")
        return Opened(module, tensors, sources(module, None, rank=rank), (), str(path))
    return open_published(FORMATS[name], record, tensors, str(path), folder.name)


def open_published(published: Format, record: dict[str, Any], tensors: Tensors, where: str, part: str) -> Opened:
    """The network of a published config, and its tensors under today's names."""
    tensors = renamed(tensors, published.aliases)
    fields = Fields(record, part)
    config = published.read(fields, tensors)
    fields.finish()
    extra = record.get(OURS)
    if isinstance(extra, dict):
        names = {field.name for field in dataclasses.fields(config)}
        whole = {**dataclasses.asdict(config), **{k: v for k, v in extra.items() if k in names}}
        config = from_tree(type(config), whole, f"{part}.")
    module = published.module(config)  # type: ignore[call-arg]
    wanted = sources(module, published.table(config), published.numbers(config))
    return Opened(module, tensors, wanted, published.derived, where)


def read_params(opened: Opened, dtype: str | None = "float32", sharding: Any = None, ignore: Sequence[str] = ()) -> Any:
    """The parameters of what was opened; see `load_part`."""
    refuse(compare(opened.tensors, opened.wanted, opened.derived), ignore, opened.where)
    check(opened.tensors, opened.wanted, opened.where)
    kind = None if dtype is None else np.dtype(jnp.dtype(dtype))
    return unflatten_dict(fill(opened.tensors, opened.wanted, kind, sharding))


def load_part(
    folder: str | Path,
    *,
    dtype: str | None = "float32",
    sharding: Any = None,
    variant: str | None = None,
    ignore: Sequence[str] = (),
) -> tuple[nn.Module, Any]:
    """(module, params) of a component folder that we, diffusers or transformers wrote.

    dtype: of the parameters; None keeps each tensor's own. sharding: a jax.sharding.Sharding, a jax.Device or a
    function (path, shape) -> sharding; params are numpy arrays where None. variant: "fp16" and the like. ignore:
    patterns, as in a shell, of tensors that may be left over or missing (zeros then).

    InputError where the class is unknown, a setting isn't supported, the file is damaged, or a tensor is missing, left
    over, of another shape or not of floats.
    """
    opened = open_part(folder, variant)
    return opened.module, read_params(opened, dtype, sharding, ignore)


def save_part(
    module: nn.Module, params: Any, folder: str | Path, extra: dict[str, Any] | None = None, rank: int = 2
) -> None:
    """Writes a module and its parameters into `folder`; `extra` goes into config.json beside the config's fields.

    rank: of the signals that it is for, 2 for images; other ranks have no published format.
    The folder is diffusers' (or transformers') wherever they have exactly this network, our own format elsewhere. A
    transformer with `scan` is saved in the plain layout, one block after the other, and loads as one without.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = module.config  # type: ignore[attr-defined]
    if getattr(config, "scan", False):
        config = models.with_compute(config, scan=False)
        module, params = type(module)(config), models.unstack_blocks(params)  # type: ignore[call-arg]
    published = format_of(module) if rank == 2 else None
    if published is None:
        record = {"_class_name": f"ldm_jax.{type(module).__name__}", **dataclasses.asdict(config)}
        record |= {} if rank == 2 else {"rank": rank}
        wanted, weights, metadata = sources(module, None, rank=rank), WEIGHTS, {"format": "flax"}
    else:
        record = published.write(config) or {}
        if "model_type" not in record:
            record = {"_class_name": published.name, "_diffusers_version": "0.30.0", **record}
        wanted = sources(module, published.table(config), published.numbers(config))
        weights, metadata = f"{published.stem}.safetensors", {"format": "pt"}
        kept = _unpublished(published, config)
        if kept:
            record[OURS] = kept
    # Each file appears whole or not at all; the config comes last, so a folder that has one has its weights.
    write_safetensors(folder / weights, published_tensors(params, wanted), metadata)
    write_json(folder / "config.json", {**record, **(extra or {})})


def _unpublished(published: Format, config: Any) -> dict[str, Any]:
    """What a published config has no place for and isn't as its files stand for."""
    return {
        name: getattr(config, name)
        for name, value in published.unpublished.items()
        if hasattr(config, name) and getattr(config, name) != value
    }


def published_tensors(params: Any, wanted: dict[str, Source]) -> dict[str, tuple[Info, Any]]:
    """Every published tensor: its type and shape, and a function that makes it."""
    flat: dict[str, Any] = {"/".join(path): value for path, value in flatten_dict(params).items()}
    if flat.keys() != wanted.keys():
        odd = min(flat.keys() ^ wanted.keys())
        raise InputError(f"params: {odd} is {'not in the network' if odd in flat else 'missing'}")
    made: dict[str, tuple[Info, Any]] = {}
    shares: dict[str, dict[int, Any]] = {}
    for path, source in wanted.items():
        value = flat[path]
        if tuple(value.shape) != source.shape:
            raise InputError(f"params: {path} has shape {tuple(value.shape)}, the config says {source.shape}")
        for name in source.names:
            info = Info(np.dtype(value.dtype), source.published_shape())
            # One tensor is on the host at a time, each made when its turn comes to be written.
            made[name] = info, lambda value=value, source=source, name=name: source.views(np.asarray(value))[name]
            if source.share[1] > 1:
                shares.setdefault(name, {})[source.share[0]] = made[name][1]
                parts = shares[name]
                made[name] = info, lambda parts=parts: np.concatenate([parts[k]() for k in sorted(parts)])
    return made


__all__ = ["load_part", "open_part", "read_json", "read_params", "save_part"]
