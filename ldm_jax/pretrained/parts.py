"""One component folder: config.json + safetensors, the layout that diffusers uses for every part of a pipeline."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ldm_jax.config import from_dict
from ldm_jax.errors import InputError
from ldm_jax.models import Autoencoder, AutoencoderConfig, DiT, DiTConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"

CLASSES: dict[str, tuple[type[nn.Module], type]] = {
    "ldm_jax.Autoencoder": (Autoencoder, AutoencoderConfig),
    "ldm_jax.DiT": (DiT, DiTConfig),
}


def param_shapes(module: nn.Module) -> Any:
    """The pytree of jax.ShapeDtypeStruct of a module's parameters; nothing is computed."""
    args = module.example_inputs()  # type: ignore[attr-defined]
    return jax.eval_shape(lambda key: module.init(key, *args)["params"], jax.random.key(0))


def save_part(module: nn.Module, params: Any, folder: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Writes a module and its parameters into `folder`; `extra` goes into config.json beside the config's fields."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = module.config  # type: ignore[attr-defined]
    tensors = {"/".join(path): np.asarray(value) for path, value in flatten_dict(params).items()}
    record = {"_class_name": f"ldm_jax.{type(module).__name__}", **dataclasses.asdict(config), **(extra or {})}
    # Each file appears whole or not at all; the config comes last, so a folder that has one has its weights.
    temporary = folder / f"{WEIGHTS}.tmp"
    save_file(tensors, temporary, metadata={"format": "flax"})
    temporary.replace(folder / WEIGHTS)
    temporary = folder / "config.json.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or InputError."""
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"model: {path} can't be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"model: {path} is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"model: {path} must hold an object")
    return record


def load_part(folder: str | Path) -> tuple[nn.Module, Any]:
    """(module, params) of a component folder; params are numpy arrays.

    InputError where the class is unknown, the file is damaged, or a tensor is missing, left over or of another shape.
    """
    folder = Path(folder)
    record = read_json(folder / "config.json")
    name = record.pop("_class_name", None)
    if name not in CLASSES:
        raise InputError(f"model: _class_name {name!r} of {folder} is not one of {', '.join(CLASSES)}")
    module_class, config_class = CLASSES[name]
    fields = {field.name for field in dataclasses.fields(config_class)}
    config = from_dict(config_class, {k: v for k, v in record.items() if k in fields}, f"{folder.name}.")
    module = module_class(config)  # type: ignore[call-arg]
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model: {folder / WEIGHTS} can't be read ({str(error).splitlines()[0]})") from error
    wanted = {"/".join(path): leaf for path, leaf in flatten_dict(param_shapes(module)).items()}
    for what, names in (("lacks", wanted.keys() - tensors.keys()), ("has besides", tensors.keys() - wanted.keys())):
        if names:
            raise InputError(f"model: {folder / WEIGHTS} {what} {len(names)} tensors, {min(names)} first")
    for path, leaf in wanted.items():
        if tensors[path].shape != leaf.shape:
            raise InputError(f"model: {path} in {folder} has shape {tensors[path].shape}, its config says {leaf.shape}")
    return module, unflatten_dict({tuple(path.split("/")): value for path, value in tensors.items()})
