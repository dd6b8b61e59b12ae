"""Tensors in files, read one at a time: safetensors, sharded indexes, whole folders.

A safetensors header is believed only where it agrees with the file, before anything is allocated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import ml_dtypes
import numpy as np

from ldm_jax.errors import InputError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
FLOATS = tuple(DTYPES[name] for name in ("F64", "F32", "F16", "BF16"))
MAX_HEADER = 100_000_000
CHUNK = 16 << 20
"""Bytes read at once: what loading needs beside the parameters."""


class Info(NamedTuple):
    """A tensor's type and shape, known without reading it."""

    dtype: np.dtype
    shape: tuple[int, ...]


@runtime_checkable
class Tensors(Protocol):
    """Named tensors, each read when it is asked for."""

    @property
    def info(self) -> Mapping[str, Info]:
        """Every tensor's name, type and shape."""
        ...

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """A tensor in pieces along its first axis, so that a large one is never there twice."""
        ...


def read(tensors: Tensors, name: str) -> np.ndarray:
    """One whole tensor."""
    dtype, shape = tensors.info[name]
    array = np.empty(shape, dtype)
    for place, piece in tensors.chunks(name):
        array[place] = piece
    return array


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or InputError."""
    try:
        return json_object(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"model: {path} can't be read ({error.strerror})") from error


def json_object(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object from bytes of a file, or InputError."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"model: {path} is not JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(record, dict):
        raise InputError(f"model: {path} must hold an object")
    return record


class Safetensors:
    """One safetensors file: header checked against the file, tensors read by seek."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[str, int] = {}
        self.info: dict[str, Info] = {}
        self.metadata: dict[str, Any] = {}
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > min(size - 8, MAX_HEADER):
                    raise InputError(f"model: {path} is truncated or no safetensors file (header of {length} bytes)")
                header = json_object(file.read(length), path)
        except OSError as error:
            raise InputError(f"model: {path} can't be read ({error.strerror})") from error
        metadata = header.pop("__metadata__", {})
        self.metadata = metadata if isinstance(metadata, dict) else {}
        begin = 8 + length
        spans = []
        for name, entry in header.items():
            info, start, end = _entry(path, name, entry)
            self.info[name], self._offsets[name] = info, begin + start
            spans.append((start, end, name))
        end = 0
        for start, stop, name in sorted(spans):
            if start != end:
                raise InputError(f"model: {path} has {name} at byte {start}, the tensor before it ends at {end}")
            end = stop
        if begin + end != size:
            raise InputError(f"model: {path} holds {size - begin} bytes of tensors, its header says {end}")

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Tensors`."""
        dtype, shape = self.info[name]
        rows = shape[0] if shape else 1
        row = math.prod(shape[1:]) * dtype.itemsize
        step = max(1, CHUNK // max(row, 1))
        with self.path.open("rb") as file:
            file.seek(self._offsets[name])
            for start in range(0, rows, step):
                count = min(step, rows - start)
                piece = np.fromfile(file, np.uint8, count * row).view(dtype)
                if piece.nbytes != count * row:
                    raise InputError(f"model: {self.path} ended within {name}")
                place = slice(start, start + count) if shape else slice(None)
                yield place if shape else ..., piece.reshape((count, *shape[1:]) if shape else ())  # type: ignore[misc]


def _entry(path: Path, name: str, entry: Any) -> tuple[Info, int, int]:
    wrong = InputError(f"model: {path} describes {name} as {str(entry)[:80]}, which is no tensor")
    if not isinstance(entry, dict):
        raise wrong
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _naturals(shape) or not _naturals(span) or len(span) != 2:
        raise wrong
    if dtype not in DTYPES:
        raise InputError(f"model: {path} has {name} of type {dtype}; accepted: {', '.join(DTYPES)}")
    if span[1] - span[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise InputError(
            f"model: {path} gives {name} {span[1] - span[0]} bytes, {dtype} of shape {shape} has another size"
        )
    return Info(DTYPES[dtype], tuple(shape)), span[0], span[1]


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**62 for item in value)


class Shards:
    """Several files as one; the index names the shard of every tensor."""

    def __init__(self, index: Path, open_file: Callable[[Path], Tensors]) -> None:
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
            raise InputError(f"model: {index} lacks weight_map, tensor names to file names")
        files: dict[str, Tensors] = {}
        for file in sorted(set(places.values())):
            # A shard lies beside its index; anything else would read files that nobody named.
            if Path(file).name != file or file in ("", ".", "..") or "\\" in file:
                raise InputError(f"model: {index} names the shard {file!r}, which is not a plain file name")
            if not (index.parent / file).is_file():
                raise InputError(f"model: {index} names the shard {file}, which is missing")
            files[file] = open_file(index.parent / file)
        self._file: dict[str, Tensors] = {}
        for name, file in places.items():
            if name not in files[file].info:
                raise InputError(f"model: {index} says that {file} has {name}, it hasn't")
            self._file[name] = files[file]
        for file, tensors in files.items():
            for name in tensors.info:
                if name not in self._file:
                    raise InputError(f"model: {index} doesn't name {name} of {file}")
        self.info = {name: tensors.info[name] for name, tensors in self._file.items()}

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Tensors`."""
        return self._file[name].chunks(name)


class Renamed:
    """The same tensors under other names."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]) -> None:
        """names: each new name and the old one that it stands for."""
        self._tensors, self._names = tensors, dict(names)
        self.info = {new: tensors.info[old] for new, old in self._names.items()}
        self.metadata: Mapping[str, Any] = getattr(tensors, "metadata", {})

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Tensors`."""
        return self._tensors.chunks(self._names[name])


class Arrays:
    """Tensors that are in memory already."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.info = {name: Info(array.dtype, array.shape) for name, array in arrays.items()}

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Tensors`."""
        array = self._arrays[name]
        yield (slice(0, len(array)) if array.ndim else ...), array  # type: ignore[misc]


class Made(NamedTuple):
    """A tensor made of another, where the layouts are more than a transposition apart."""

    source: str
    shape: tuple[int, ...]
    make: Callable[[np.ndarray], np.ndarray]


class Remade:
    """The same tensors, some of them taken apart or turned around; those are read whole."""

    def __init__(self, tensors: Tensors, made: Mapping[str, Made]) -> None:
        self._tensors, self._made = tensors, made
        used = {one.source for one in made.values()}
        self.info = {name: info for name, info in tensors.info.items() if name not in used}
        self.info |= {name: Info(tensors.info[one.source].dtype, one.shape) for name, one in made.items()}

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Tensors`."""
        if name not in self._made:
            yield from self._tensors.chunks(name)
        else:
            one = self._made[name]
            array = one.make(read(self._tensors, one.source))
            yield slice(0, len(array)), array
