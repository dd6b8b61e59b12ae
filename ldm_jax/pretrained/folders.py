"""Which files of a component folder hold its weights."""

from __future__ import annotations

import re
from pathlib import Path

from ldm_jax.errors import InputError
from ldm_jax.pretrained.legacy import open_pickle
from ldm_jax.pretrained.tensors import Renamed, Safetensors, Shards, Tensors

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


POINTERS = {b"version https://git-lfs": "Git LFS", b"/annex/objects/": "git-annex"}
"""How files begin that stand for another, which was not fetched."""


def open_file(path: Path) -> Tensors:
    """The tensors of one file: safetensors, an index of shards, or a pickle through the restricted reader.

    Prefixes that torch.compile and DistributedDataParallel put before names are taken off.
    """
    tensors = _open(path)
    names = {name: re.sub(r"(^|\.)_orig_mod\.", r"\1", name) for name in tensors.info}
    if names and all(name.startswith("module.") for name in names.values()):
        names = {old: new.removeprefix("module.") for old, new in names.items()}
    if all(old == new for old, new in names.items()):
        return tensors
    if len(set(names.values())) != len(names):
        raise InputError(f"model: {path} holds tensors with and without the prefix _orig_mod. of torch.compile")
    return Renamed(tensors, {new: old for old, new in names.items()})


def _open(path: Path) -> Tensors:
    if not path.is_file():
        raise InputError(f"model: {path} is not a file")
    with path.open("rb") as file:
        start = file.read(32)
    for mark, program in POINTERS.items():
        if start.startswith(mark):
            raise InputError(
                f"model: {path} is a pointer of {program}, the file itself was not fetched; fetch it first"
            )
    if path.suffix == ".safetensors":
        return Safetensors(path)
    if path.suffix == ".json":
        return Shards(path, _open)
    if path.suffix in PICKLES:
        return open_pickle(path)
    raise InputError(f"model: {path} must end in .safetensors, .safetensors.index.json, {', '.join(PICKLES)}")


def find_weights(folder: Path, variant: str | None = None) -> Path:
    """The file, or the index of shards, that holds a folder's weights.

    variant: "fp16" for model.fp16.safetensors and the like; None takes the plain file where there is one, and the
    only variant where there is none. safetensors come before pickles.
    """
    plain, variants = [], {}
    for ending in ("safetensors", "bin"):
        for stem in STEMS:
            for path in (folder / f"{stem}.{ending}", folder / f"{stem}.{ending}.index.json"):
                if path.is_file():
                    plain.append(path)
            for path in sorted(folder.glob(f"{stem}.*")):
                parts = path.name[len(stem) + 1 :].split(".")
                # model.fp16.safetensors; model.safetensors.index.fp16.json; model.fp16.safetensors.index.json
                whole, index = len(parts) == 2 and parts[1] == ending, parts[-1] == "json" and "index" in parts
                if whole or (index and len(parts) == 4 and ending in parts):
                    name = next(part for part in parts if part not in (ending, "index", "json"))
                    if not name.isdigit() and "-of-" not in name:
                        variants.setdefault(name, path)
    if variant is not None:
        if variant not in variants:
            known = ", ".join(sorted(variants)) or "none"
            raise InputError(f"variant: {variant!r} of {folder} must be one of those there: {known}")
        return variants[variant]
    if plain:
        return plain[0]
    if len(variants) == 1:
        return next(iter(variants.values()))
    if variants:
        raise InputError(f"variant: {folder} has {', '.join(sorted(variants))}; name one")
    raise InputError(f"model: {folder} has no weights, {STEMS[0]}.safetensors or {STEMS[1]}.safetensors")
