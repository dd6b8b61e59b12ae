"""Older files of arrays: torch.save before PyTorch 1.6, and pickles of numpy arrays. Nothing in them is run.

torch.save used to write five pickles one after the other (a magic number, a protocol, the machine, the object, the
storages' keys) and then every storage: its number of elements in 8 bytes, and its data.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.pretrained.pickles import MAX_DEPTH, MAX_PICKLE, Pickled, Stored, Unpickler, unpickle
from ldm_jax.pretrained.tensors import Arrays, Tensors

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_ARRAYS = 1 << 30
"""Bytes of a pickle that holds its arrays itself."""


class Legacy(Stored):
    """The tensors of a file that torch.save wrote before PyTorch 1.6."""

    def __init__(self, path: Path) -> None:
        places: dict[str, tuple[int, int]] = {}
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            stream = io.BytesIO(file.read(MAX_PICKLE))
            # A memo of its own for each pickle, as for each of torch's.
            magic, protocol, _ = (unpickle(Unpickler(stream), path) for _ in range(3))
            if magic != MAGIC or protocol != PROTOCOL:
                raise InputError(f"model: {path} is no file of PyTorch")
            program = Unpickler(stream)
            tree, keys = unpickle(program, path), unpickle(Unpickler(stream), path)
            if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(program.storages):
                raise InputError(f"model: {path} lists other storages than its tensors have")
            end = stream.tell()
            for key in keys:
                storage = program.storages[key]
                file.seek(end)
                count, bytes_ = int.from_bytes(file.read(8), "little"), storage.count * storage.dtype.itemsize
                if count != storage.count or end + 8 + bytes_ > size:
                    raise InputError(f"model: {path} is truncated, or a storage has another size than its tensors say")
                places[key] = end + 8, bytes_
                end += 8 + bytes_
        super().__init__(path, tree, places)


def open_pickle(path: Path) -> Tensors:
    """The tensors of a file that torch.save wrote, whatever its age; InputError for every other file."""
    try:
        with path.open("rb") as file:
            # The magic number's pickle, protocol 2.
            old = file.read(15) == pickle.PROTO + b"\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
        return Legacy(path) if old else Pickled(path)
    except OSError as error:
        raise InputError(f"model: {path} can't be read ({error.strerror})") from error


class _Dtype:
    """Stands for a numpy type: little-endian floats of 2, 4 or 8 bytes alone."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in ("f2", "f4", "f8"):
            raise pickle.UnpicklingError(f"arrays of type {str(name)[:20]}")
        self.dtype = np.dtype(f"<{name}")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] != "<":
            raise pickle.UnpicklingError("arrays of another byte order")


class _Array:
    """Stands for a numpy array; numpy's own __setstate__ never sees what a file says."""

    array: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array that is none")
        if len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
            raise pickle.UnpicklingError("an array of an odd shape")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise pickle.UnpicklingError("an array of another size than its data")
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


NUMPY = {
    **{(module, "_reconstruct"): _reconstruct for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


def numpy_pickle(path: Path) -> Tensors:
    """The arrays of a pickle of nested dictionaries, slashes between the names; InputError for anything else."""
    try:
        if path.stat().st_size > MAX_ARRAYS:
            raise InputError(f"model: {path} has {path.stat().st_size} bytes, {MAX_ARRAYS} are read at most")
        with path.open("rb") as file:
            tree = unpickle(Unpickler(file, NUMPY), path)
    except OSError as error:
        raise InputError(f"model: {path} can't be read ({error.strerror})") from error
    return Arrays(dict(_flat(tree, "", 0)))


def _flat(tree: Any, prefix: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, _Array) and hasattr(tree, "array"):
        yield prefix, tree.array
    elif isinstance(tree, dict) and depth < MAX_DEPTH:
        for key, value in tree.items():
            if isinstance(key, str):
                yield from _flat(value, f"{prefix}/{key}" if prefix else key, depth + 1)
