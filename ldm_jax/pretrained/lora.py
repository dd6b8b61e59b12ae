"""LoRA (Hu et al. 2021, arXiv 2106.09685): load diffusers' and kohya's files, merge, train, and export them.

An adapter adds `down @ up` to a kernel, with `down` [*k, in, r] and `up` [r, out] in our layout; a file's alpha / r is
multiplied into `up` when it is loaded. Adapters are a dictionary from our paths of kernels to such pairs, a pytree: to
train them, take the gradient of `loss(merge(params, adapters))` with respect to `adapters` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from ldm_jax.errors import InputError
from ldm_jax.models import UNet, UNetConfig
from ldm_jax.pretrained.lora_names import DENOISERS, LoraFile, named, open_lora
from ldm_jax.pretrained.names import Numbers, Source, flat_shapes, sources
from ldm_jax.pretrained.tables import compvis, format_of
from ldm_jax.pretrained.tensors import Info, read
from ldm_jax.pretrained.writing import write_safetensors


class Adapter(NamedTuple):
    """down [*k, in, r], up [r, out]: their product is added to a kernel [*k, in, out]."""

    down: Array | np.ndarray
    up: Array | np.ndarray


Adapters = dict[str, Adapter]

DOWN, UP = (".lora_A.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_up.weight")
"""What diffusers and kohya call the halves, where we write them."""


def init_lora(
    module: nn.Module, rank: int, key: Array, targets: str = r".*(query|key|value|qkv|out)/kernel"
) -> Adapters:
    """New adapters for every kernel whose path matches `targets`; `up` is zero, so nothing changes at first.

    Patch embeddings, which LoRA files have no place for, are left out.
    """
    if rank < 1:
        raise InputError(f"lora.rank: {rank} must be at least 1")
    left_out = {path for path, source in _wanted(module).items() if source.layout == "patch"}
    shapes = flat_shapes(module).items()
    paths = [(path, shape) for path, shape in shapes if re.fullmatch(targets, path) and path not in left_out]
    if not paths:
        raise InputError(f"lora.targets: {targets!r} matches no kernel")
    adapters: Adapters = {}
    for i, (path, shape) in enumerate(paths):
        fan_in = int(np.prod(shape[:-1]))
        down = jax.random.normal(jax.random.fold_in(key, i), (*shape[:-1], rank)) / np.sqrt(fan_in)
        adapters[path] = Adapter(down, jnp.zeros((rank, shape[-1])))
    return adapters


def merge(params: Any, adapters: Mapping[str, Adapter], scale: Any = 1.0) -> Any:
    """The parameters with every adapter's product, times scale, added; differentiable, and fine within jit."""
    flat: dict[tuple[str, ...], Any] = dict(flatten_dict(params))
    for path, (down, up) in adapters.items():
        place = tuple(path.split("/"))
        if place not in flat:
            raise InputError(f"lora: the network has no {path}")
        kernel = flat[place]
        delta = jnp.asarray(down, jnp.float32) @ jnp.asarray(up, jnp.float32)
        flat[place] = (kernel.astype(jnp.float32) + scale * delta).astype(kernel.dtype)
    return unflatten_dict(flat)


def _wanted(module: nn.Module) -> dict[str, Source]:
    published = format_of(module)
    if published is None:
        # A network that nobody else has: each kernel by its own path, spelt as published names are.
        own = sources(module, None)
        spelt = {path: f"{path.replace('/', '.').removesuffix('.kernel')}.weight" for path in own}
        return {path: source._replace(names=(spelt[path],)) for path, source in own.items()}
    config: Any = module.config  # type: ignore[attr-defined]
    return sources(module, published.table(config), published.numbers(config))


def _misfit(file: Any, name: str, owner: str, needed: str) -> InputError:
    shape = list(file.tensors.info[name].shape)
    return InputError(f"lora: {file.path} has {name} of shape {shape}; this model's {owner} has {needed}")


def _places(module: nn.Module) -> dict[str, tuple[str, int, int]]:
    """Every published name of a kernel, also in kohya's spelling: our path, which of how many joined ones."""
    tables = [_wanted(module)]
    config = module.config  # type: ignore[attr-defined]
    if isinstance(module, UNet) and isinstance(config, UNetConfig) and config.context_dim:
        tables.append(sources(module, compvis.unet_table(config), Numbers(levels=len(config.channels))))
    places: dict[str, tuple[str, int, int]] = {}
    for table in tables:
        for path, source in table.items():
            if not path.endswith("/kernel") or source.share[1] > 1:
                continue
            for i, name in enumerate(source.names):
                bare = name.removesuffix(".weight")
                # transformers 5 names CLIP's layers without the prefix.
                for name in {bare, bare.removeprefix("text_model.")}:
                    for spelling in (name, name.replace(".", "_")):
                        places[spelling] = path, 0 if source.copies else i, 1 if source.copies else len(source.names)
    return places


def _to_ours(array: np.ndarray) -> np.ndarray:
    """[r, in, *k] -> [*k, in, r], whatever the rank."""
    n = array.ndim
    array = array.astype(np.float32)
    return array.transpose(*range(2, n), 1, 0)


def load_lora(path: str | Path, module: nn.Module, prefix: str = "") -> Adapters:
    """The adapters of a diffusers (PEFT or older) or kohya file, for one network.

    prefix: of the names to take, where a file holds several networks, such as "unet." or "lora_te_"; others are left.
    InputError where a tensor belongs to nothing of the network.
    """
    file = open_lora(path)
    names = [name for name in file.tensors.info if name.startswith(prefix)]
    if not names:
        raise InputError(f"lora: {file.path} has no tensors that begin with {prefix!r}")
    halves: Halves = {}
    for part, own in _halves(file, names).items():
        halves |= {(part or "", owner): half for owner, half in own.items()}
    return _adapters(file, module, halves)


def load_loras(path: str | Path, modules: Mapping[str, nn.Module]) -> dict[str, Adapters]:
    """The adapters of a file for all networks of a pipeline, by the names of their folders.

    modules: the denoiser as "unet" or "transformer" and the text encoders. InputError where the file has any for a
    network that is not among them, or belongs to another architecture.
    """
    file = open_lora(path)
    denoiser = next((part for part in DENOISERS if part in modules), None)
    found: dict[str, Halves] = {}
    for part, own in _halves(file, list(file.tensors.info)).items():
        # Names alone don't tell a UNet from a transformer: kohya writes lora_unet_ for both, PEFT nothing.
        target = denoiser if part in (None, *DENOISERS) else part
        if target is None or target not in modules:
            raise InputError(f"lora: {file.path} is for {part or 'a denoiser'}, which this model lacks")
        found.setdefault(target, {}).update({(part or "", owner): half for owner, half in own.items()})
    if not found:
        raise InputError(f"lora: {file.path} is empty")
    return {target: _adapters(file, modules[target], halves) for target, halves in found.items()}


Halves = dict[tuple[str, str], dict[str, str]]
"""By part and published module, the names of the tensors down, up and alpha."""


def _halves(file: LoraFile, names: list[str]) -> dict[str | None, dict[str, dict[str, str]]]:
    parts: dict[str | None, dict[str, dict[str, str]]] = {}
    for name in names:
        said = named(name)
        if said is None:
            raise InputError(f"lora: {file.path} has {name}, which is no LoRA tensor that is known")
        half = parts.setdefault(said.part, {}).setdefault(said.owner, {})
        if said.half in half:
            raise InputError(f"lora: {file.path} has two LoRAs of {said.owner}, {half[said.half]} and {name}")
        half[said.half] = name
    return parts


def _adapters(file: LoraFile, module: nn.Module, halves: Halves) -> Adapters:
    """The adapters of one network."""
    tensors, places, shapes = file.tensors, _places(module), flat_shapes(module)
    joined: dict[str, dict[int, Adapter]] = {}
    counts: dict[str, int] = {}
    for (part, owner), half in halves.items():
        if owner not in places or "down" not in half or "up" not in half:
            what = "half a LoRA of" if owner in places else "a LoRA of the unknown layer"
            raise InputError(f"lora: {file.path} has {what} {owner}")
        place, i, n = places[owner]
        down, up = _to_ours(read(tensors, half["down"])), _to_ours(read(tensors, half["up"]))
        rank, shape = down.shape[-1], shapes[place]
        up = up.reshape(-1, up.shape[-1])
        if up.shape != (rank, shape[-1] // n):
            raise _misfit(file, half["up"], owner, f"{shape[-1] // n} outputs")
        if int(np.prod(down.shape[:-1])) != int(np.prod(shape[:-1])):
            raise _misfit(file, half["down"], owner, f"{int(np.prod(shape[:-1]))} inputs")
        if i in joined.get(place, {}):
            raise InputError(f"lora: {file.path} has two LoRAs of {owner}, under different names")
        down = down.reshape(*shape[:-1], rank)
        alpha = float(read(tensors, half["alpha"]).reshape(())) if "alpha" in half else None
        joined.setdefault(place, {})[i] = Adapter(down, up * np.float32(file.scale(part, owner, rank, alpha)))
        counts[place] = n
    return {place: _join(parts, counts[place], shapes[place][-1]) for place, parts in joined.items()}


def _join(parts: dict[int, Adapter], n: int, features: int) -> Adapter:
    """Adapters of separate q, k, v as one of the joined matrix: ranks add up, `up` is block-diagonal."""
    if n == 1:
        return parts[0]
    down = np.concatenate([np.asarray(parts[i].down) for i in sorted(parts)], axis=-1)
    up = np.zeros((down.shape[-1], features), np.float32)
    row = 0
    for i in sorted(parts):
        rank = parts[i].up.shape[0]
        up[row : row + rank, i * features // n : (i + 1) * features // n] = parts[i].up
        row += rank
    return Adapter(down, up)


def save_lora(
    module: nn.Module,
    adapters: Mapping[str, Adapter],
    path: str | Path,
    style: Literal["diffusers", "kohya"] = "diffusers",
    prefix: str | None = None,
) -> None:
    """Writes adapters as diffusers (`unet.….lora_A.weight`) or kohya (`lora_unet_….lora_down.weight`) reads them.

    prefix: "unet." or "lora_unet_" for a UNet, "transformer." or "lora_transformer_" for others, where None.
    """
    wanted, made = _wanted(module), {}
    part = "unet" if isinstance(module, UNet) else "transformer"
    if prefix is None:
        prefix = f"{part}." if style == "diffusers" else f"lora_{part}_"
    down_name, up_name = (DOWN[0], UP[0]) if style == "diffusers" else (DOWN[1], UP[1])
    for place, (down, up) in adapters.items():
        if place not in wanted:
            raise InputError(f"lora: the network has no {place}")
        source = wanted[place]
        down, up = np.asarray(down, np.float32), np.asarray(up, np.float32)
        ups = [up] * len(source.names) if source.copies else np.split(up, len(source.names), axis=1)
        for name, own in zip(source.names, ups, strict=True):
            bare = name.removesuffix(".weight")
            bare = prefix + (bare if style == "diffusers" else bare.replace(".", "_"))
            n = down.ndim
            if source.layout == "patch":
                raise InputError(f"lora: {place} is a patch embedding; LoRA files of others have none")
            # Files keep a convolution's axes: [r, in, *k] and [out, r, 1, 1].
            ones = (1, 1) if source.layout in ("conv", "point") else ()
            a = down.transpose(n - 1, n - 2, *range(n - 2)).reshape(down.shape[-1], down.shape[-2], -1)
            a = a.reshape(*a.shape[:2], *(down.shape[:-2] or ones))
            made[bare + down_name] = a
            made[bare + up_name] = own.T.reshape(*own.T.shape, *ones)
            if style == "kohya":
                made[bare + ".alpha"] = np.array(down.shape[-1], np.float32)
    tensors = {name: (Info(value.dtype, value.shape), lambda value=value: value) for name, value in made.items()}
    write_safetensors(Path(path), tensors, {"format": "pt"})
