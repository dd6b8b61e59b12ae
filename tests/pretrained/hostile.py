"""What the tests of hostile files share: files that say what the test wants, and what is asked of a refusal."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ldm_jax.errors import InputError
from ldm_jax.pretrained.tensors import read


def refused(call, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    for word in words:
        assert word in message, message


def one_line(error: InputError) -> None:
    assert "\n" not in str(error)


def read_or_refused(open_it) -> None:
    """Every tensor has the shape that the file says, or the file is refused in one line; no other error."""
    try:
        tensors = open_it()
        for name, info in tensors.info.items():
            assert read(tensors, name).shape == info.shape
    except InputError as error:
        one_line(error)


def damaged(data, whole: bytes, most: int = 4, first: int = 0) -> bytes:
    """One byte or up to `most` changed, from place `first` on; data: hypothesis'."""
    out = bytearray(whole)
    for _ in range(data.draw(st.integers(1, most))):
        out[data.draw(st.integers(first, len(out) - 1))] = data.draw(st.integers(0, 255))
    return bytes(out)


# Pickles, as torch.save writes them: a zip with NAME/data.pkl and NAME/data/KEY.


class Storage:
    def __init__(self, kind: str, key: str, count: int) -> None:
        self.kind, self.key, self.count = kind, key, count


class Global:
    """Pickles as a reference to module.name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    def __init__(self, module: str, name: str, *args) -> None:
        self.target, self.args = Global(module, name), args


class Built(Call):
    """An object of module.name whose state is `state`."""

    def __init__(self, module: str, name: str, state) -> None:
        super().__init__(module, name)
        self.state = state


class Writer(pickle._Pickler):  # type: ignore[name-defined]
    """Writes references and calls without importing what they name."""

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", Global("torch", obj.kind), obj.key, "cpu", obj.count)
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.target)
            self.save(obj.args)
            self.write(pickle.REDUCE)
            if isinstance(obj, Built):
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def tensor(
    key: str, shape: tuple[int, ...], strides: tuple[int, ...], count: int, offset: int = 0, kind="FloatStorage"
):
    storage = Storage(kind, key, count)
    hooks = Call("collections", "OrderedDict")
    return Call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, hooks)


def checkpoint(path: Path, tree, data: dict[str, bytes], compress: int = zipfile.ZIP_STORED, writer=Writer) -> Path:
    buffer = io.BytesIO()
    writer(buffer, 2).dump(tree)
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue(), zipfile.ZIP_STORED)
        for key, value in data.items():
            archive.writestr(f"archive/data/{key}", value)
    return path
