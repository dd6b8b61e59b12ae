"""PyTorch's .ckpt, .pth, .pt and .bin files, read without running anything in them.

A pickle is a program. This reader interprets it with a table of the few names that a file of tensors needs; any other
name is refused before it is looked up. Storages are read from the zip by seek, and only where they lie uncompressed,
as torch.save writes them, so a zip bomb has nothing to unfold.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.pretrained.tensors import CHUNK, Info

MAX_PICKLE = 64 << 20
"""Bytes of the pickle itself, without the tensors."""
MAX_DEPTH = 6
"""Dictionaries within dictionaries that are looked through for tensors."""


class Storage(NamedTuple):
    """A typed block of bytes in the file."""

    dtype: np.dtype
    key: str
    count: int


class Strided(NamedTuple):
    """A tensor: where it starts in a storage, its shape and strides, counted in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Type(NamedTuple):
    dtype: np.dtype


class _Inert:
    """Stands for settings and other objects that a checkpoint holds beside tensors; it never runs anything."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Nothing, as for whatever a pickle puts into a list, a set or a dictionary of such a kind."""

    def extend(self, items: Any) -> None:
        """See `append`."""

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Script:
    """A module of a TorchScript archive: its attributes, of which tensors and modules are looked at; no code."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Strided:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise pickle.UnpicklingError("a tensor that is none")
    if len(shape) != len(strides) or len(shape) > 32:
        raise pickle.UnpicklingError("a tensor with more axes than strides")
    span = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if math.prod(shape) else -1
    if offset + span >= storage.count:
        raise pickle.UnpicklingError("a tensor beyond the end of its storage")
    if math.prod(shape) > storage.count:
        # Expanded tensors (stride 0) would let a small file ask for any amount of memory.
        raise pickle.UnpicklingError("a tensor larger than its storage")
    return Strided(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _ordered(*args: Any) -> dict[Any, Any]:
    return collections.OrderedDict(*args)


def _default(factory: Any = None, *args: Any) -> dict[Any, Any]:
    # What it would make of a missing key is never asked.
    return dict(*args)


class _ParameterDict(dict[Any, Any]):
    """torch.nn.ParameterDict, which the first textual inversions were saved as: its parameters by name."""

    def __setstate__(self, state: Any) -> None:
        found = state.get("_parameters") if isinstance(state, dict) else None
        if not isinstance(found, dict):
            raise pickle.UnpicklingError("a ParameterDict without parameters")
        self.update(found)


SETTINGS = (
    *(("numpy", name) for name in ("dtype", "float64", "float32", "float16", "int64", "int32", "bool_")),
    *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "complex")),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("int", "float", "str", "list", "dict", "bool")
    ),
    *(("torch", name) for name in ("Size", "device", "dtype")),
    *(("torch", name) for name in ("float16", "bfloat16", "float32", "float64", "half", "float", "double")),
    *(("torch", name) for name in ("int8", "int16", "int32", "int64", "uint8", "bool", "long", "int", "short")),
    ("_codecs", "encode"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
)
"""Names of values that training code keeps beside the tensors: numbers, sets, types. They become objects that do
nothing, too; what they name is not imported, so nothing that a pickle passes to them runs."""

ALLOWED: dict[tuple[str, str], Any] = {
    **dict.fromkeys(SETTINGS, _Inert),
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): _default,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.modules.container", "ParameterDict"): _ParameterDict,
    **{("torch", name): _Type(np.dtype(dtype)) for name, dtype in STORAGES.items()},
}
INERT = ("pytorch_lightning.", "lightning.", "omegaconf.", "argparse.Namespace")
"""Names that old LDM checkpoints hold beside the tensors; each becomes an object that does nothing."""


class Unpickler(pickle.Unpickler):
    """Makes what a table allows, of what a pickle asks for; `storages` are those that it referred to."""

    def __init__(self, file: io.BufferedIOBase, allowed: Mapping[tuple[str, str], Any] = ALLOWED) -> None:
        super().__init__(file)
        self._allowed = allowed
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; UnpicklingError for all but a few."""
        found = self._allowed.get((module, name))
        if found is not None:
            return found
        if f"{module}.{name}".startswith(INERT):
            return _Inert
        if module.startswith("__torch__"):
            return _Script
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that a pickle refers to."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _Type):
            raise pickle.UnpicklingError("a reference that is no storage")
        if not isinstance(pid[2], str) or type(pid[4]) is not int or not 0 <= pid[4] < 2**62:
            raise pickle.UnpicklingError("a storage without name or size")
        storage = Storage(pid[1].dtype, pid[2], pid[4])
        if self.storages.setdefault(storage.key, storage) != storage:
            raise pickle.UnpicklingError("a storage of two types or sizes")
        return storage


def unpickle(unpickler: Unpickler, path: Path) -> Any:
    """The next object in a pickle, made of dictionaries, lists, numbers, strings and `Strided` alone."""
    try:
        return unpickler.load()
    except InputError:
        raise
    except Exception as error:  # whatever a hostile program makes of the unpickler, it is the file's fault
        line = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"model: {path} is refused ({line})") from error


class Stored:
    """The tensors of a file, dotted names for nested dictionaries."""

    def __init__(self, path: Path, tree: Any, places: Mapping[str, tuple[int, int]]) -> None:
        """places: the first byte of every storage, and its number of bytes."""
        self.path = path
        self._places = places
        self._tensors = dict(_walk(tree, "", 0))
        for name, tensor in self._tensors.items():
            _, size = self._places.get(tensor.storage.key, (0, -1))
            if size != tensor.storage.count * tensor.storage.dtype.itemsize:
                raise InputError(f"model: {path} gives {name} a storage that isn't there or has another size")
        self.info = {name: Info(t.storage.dtype, t.shape) for name, t in self._tensors.items()}

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Tensors`."""
        tensor = self._tensors[name]
        dtype, shape = tensor.storage.dtype, tensor.shape
        begin = self._places[tensor.storage.key][0] + tensor.offset * dtype.itemsize
        rows, step = (shape[0], tensor.strides[0]) if shape else (1, 0)
        extent = 1 + sum((n - 1) * s for n, s in zip(shape[1:], tensor.strides[1:], strict=True))
        if not math.prod(shape):
            return
        # Rows that overlap or interleave (transposed tensors) are read at once, rows in order in pieces.
        count = rows if step < extent else max(1, CHUNK // (max(step, 1) * dtype.itemsize))
        with self.path.open("rb") as file:
            for start in range(0, rows, count):
                n = min(count, rows - start)
                file.seek(begin + start * step * dtype.itemsize)
                flat = np.fromfile(file, np.uint8, ((n - 1) * step + extent) * dtype.itemsize).view(dtype)
                strides = tuple(s * dtype.itemsize for s in tensor.strides)
                view = np.lib.stride_tricks.as_strided(flat, (n, *shape[1:]) if shape else (), strides)
                yield (slice(start, start + n) if shape else ...), view  # type: ignore[misc]


class Pickled(Stored):
    """The tensors of a file that torch.save or torch.jit.save wrote since PyTorch 1.6."""

    def __init__(self, path: Path) -> None:
        places: dict[str, tuple[int, int]] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                tree = unpickle(Unpickler(io.BytesIO(_program(archive, path, places))), path)
        except (
            zipfile.BadZipFile,
            OSError,
            ValueError,
            struct.error,
            NotImplementedError,
            EOFError,
            KeyError,
        ) as error:
            if isinstance(error, InputError):
                raise
            line = (str(error) or type(error).__name__).splitlines()[0]
            what = "truncated, or no zip file" if _begins_as_zip(path) else "no zip file"
            raise InputError(f"model: {path} is {what} as torch.save writes them ({line})") from error
        super().__init__(path, tree, places)


def _program(archive: zipfile.ZipFile, path: Path, places: dict[str, tuple[int, int]]) -> bytes:
    programs = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
    if len(programs) != 1:
        raise InputError(f"model: {path} has no data.pkl, which torch.save writes")
    prefix = programs[0].filename[: -len("data.pkl")]
    for entry in archive.infolist():
        if entry.filename.startswith(f"{prefix}data/"):
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise InputError(f"model: {path} has compressed tensors, which torch.save doesn't write")
            place = _data_offset(archive, entry)
            places[entry.filename[len(prefix) + len("data/") :]] = place, entry.file_size
    if programs[0].file_size > MAX_PICKLE:
        raise InputError(f"model: {path} has a pickle of {programs[0].file_size} bytes, {MAX_PICKLE} at most")
    with archive.open(programs[0]) as file:
        # One byte more than the header says shows a header that lies.
        data = file.read(programs[0].file_size + 1)
    if len(data) != programs[0].file_size:
        raise InputError(f"model: {path} has a pickle of another size than its header says")
    return data


def _data_offset(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    file = archive.fp
    if file is None:
        raise InputError("model: the file is closed")
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member without header")
    names, extras = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + names + extras


def _walk(tree: Any, prefix: str, depth: int) -> Iterator[tuple[str, Strided]]:
    tree = getattr(tree, "attributes", {}) if isinstance(tree, _Script) else tree
    if isinstance(tree, Strided):
        yield prefix, tree
    elif isinstance(tree, dict) and depth < MAX_DEPTH:
        for key, value in tree.items():
            if isinstance(key, str):
                yield from _walk(value, f"{prefix}.{key}" if prefix else key, depth + 1)


def _begins_as_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False
