"""Files of arrays from before today's formats: read, and refused with one line where they lie."""

from __future__ import annotations

import io
import pickle

import jax
import numpy as np
import pytest
from hostile import Call, Writer, checkpoint, damaged, read_or_refused, refused, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.errors import InputError
from ldm_jax.pretrained import load_lpips
from ldm_jax.pretrained.folders import open_file
from ldm_jax.pretrained.legacy import MAGIC, PROTOCOL, Legacy, numpy_pickle
from ldm_jax.pretrained.names import sources
from ldm_jax.pretrained.parts import published_tensors
from ldm_jax.pretrained.pickles import Stored, Unpickler
from ldm_jax.pretrained.tables.lpips import TORCH
from ldm_jax.pretrained.tensors import read

A, B = np.arange(6, dtype=np.float32), np.arange(3, dtype=np.float16)
TREE = {"a.weight": tensor("11", (3, 2), (2, 1), 6), "b": tensor("12", (3,), (1,), 3, kind="HalfStorage")}


def write(path, tree=TREE, storages=((b"11", A), (b"12", B)), magic=MAGIC, keys=None):
    """A file as torch.save wrote it before 1.6: pickles, then each storage's count and data."""
    out = io.BytesIO()
    listed = [key.decode() for key, _ in storages] if keys is None else keys
    for part in (magic, PROTOCOL, {"little_endian": True}, tree, listed):
        Writer(out, 2).dump(part)
    for _, array in storages:
        out.write(len(array).to_bytes(8, "little") + array.tobytes())
    path.write_bytes(out.getvalue())
    return path


def test_a_file_of_before_2020(tmp_path):
    tensors = open_file(write(tmp_path / "old.pth"))
    assert isinstance(tensors, Legacy) and set(tensors.info) == {"a.weight", "b"}
    np.testing.assert_array_equal(read(tensors, "a.weight"), A.reshape(3, 2))
    np.testing.assert_array_equal(read(tensors, "b"), B)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"keys": ["11"]}, "other storages"),
        ({"keys": ["11", "13"]}, "other storages"),
        ({"keys": [["11"], "12"]}, "other storages"),
        ({"keys": 3}, "other storages"),
        ({"storages": ((b"11", A[:5]), (b"12", B))}, "truncated"),
        ({"storages": ((b"12", B), (b"11", A[:4]))}, "truncated"),
        ({"tree": {"a": tensor("11", (7,), (1,), 6), **TREE}}, "beyond the end"),
        ({"tree": {"a": tensor("11", (2**40,), (0,), 6), **TREE}}, "larger than its storage"),
        ({"tree": {**TREE, "a": tensor("11", (5,), (1,), 5)}}, "two types or sizes"),
        ({"tree": {**TREE, "x": Call("os", "system", "true")}}, "os.system"),
    ],
)
def test_old_files_that_lie(change, word, tmp_path):
    path = write(tmp_path / "old.pth", **change)
    refused(lambda: open_file(path), word)


def test_old_files_cut_short(tmp_path):
    path = write(tmp_path / "old.pth")
    whole = path.read_bytes()
    for length in range(15, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(lambda: open_file(path))
    path.write_bytes(whole[:14] + b"x" + whole[15:])
    refused(lambda: open_file(path), "no zip file")
    refused(lambda: open_file(write(path, magic=MAGIC - 1)), "no zip file")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_old_files(tmp_path_factory, data):
    path = write(tmp_path_factory.getbasetemp() / "fuzz.pth")
    path.write_bytes(damaged(data, path.read_bytes(), first=15))
    read_or_refused(lambda: open_file(path))


class _Object:
    """A module of a TorchScript archive: made by NEWOBJ, its attributes by BUILD."""

    def __init__(self, name, **attributes):
        self.target, self.attributes = name, attributes


class _ScriptWriter(Writer):
    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Object):
            self.write(b"c" + f"__torch__.{obj.target}\nModule\n".encode() + b")" + pickle.NEWOBJ)
            super().save(obj.attributes)
            self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def test_a_torchscript_archive(tmp_path):
    """Its modules are looked through for tensors, its code is not; a module within itself ends somewhere."""
    inner = _Object("layers", weight=tensor("0", (6,), (1,), 6), training=False, title="x")
    tree = _Object("Net", layers=_Object("Sequential", conv=inner), scale=1.5)
    tensors = open_file(checkpoint(tmp_path / "script.pt", tree, {"0": A.tobytes()}, writer=_ScriptWriter))
    assert list(tensors.info) == ["layers.conv.weight"]
    np.testing.assert_array_equal(read(tensors, "layers.conv.weight"), A)
    # q0 keeps the module, and g0 makes it its own attribute.
    program = b"c__torch__\nNet\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    with io.BytesIO(b"\x80\x02" + program) as stream:
        assert not Stored(tmp_path / "loop.pt", Unpickler(stream).load(), {}).info


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_pickle_of_arrays(order, tmp_path):
    """As numpy 1 and 2 write them, in the protocols that hold bytes as such."""
    array = np.asarray(np.arange(6.0, dtype=np.float32).reshape(2, 3), order=order)
    for protocol in (3, 4):
        data = pickle.dumps({"Conv_0": {"kernel": array}, "n": 3}, protocol)
        for content in (data, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")):
            if protocol == 4 and content is not data:
                continue  # its strings say how long they are
            (tmp_path / "a.ckpt").write_bytes(content)
            tensors = numpy_pickle(tmp_path / "a.ckpt")
            assert list(tensors.info) == ["Conv_0/kernel"]
            np.testing.assert_array_equal(read(tensors, "Conv_0/kernel"), array)


@pytest.mark.parametrize(
    "value",
    [
        np.array([None], object),
        np.arange(3),
        np.arange(3, dtype=">f4"),
        np.array(["a"]),
        np.zeros(2, [("a", "f4")]),
        np.float32(1),
        print,
        InputError("x"),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_pickles_of_other_things(value, tmp_path):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"a": value}, 3))
    refused(lambda: numpy_pickle(tmp_path / "a.ckpt"), "refused")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_pickles_of_arrays(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz_numpy.ckpt"
    path.write_bytes(damaged(data, pickle.dumps({"a": {"b": A.reshape(2, 3)}}, 3)))
    read_or_refused(lambda: numpy_pickle(path))


def test_lpips_of_its_own_files(tmp_path):
    """torchvision's file and lpips', as published: of the old format, the trunk with a classifier."""
    module, params = load_lpips("alexnet")
    made = published_tensors(params, sources(module, TORCH["alexnet"]))
    arrays = {name: np.ascontiguousarray(make()) for name, (_, make) in made.items()}
    parts = {"alexnet-owt-7be5be79.pth": "features", "alex.pth": "lin"}
    for file, prefix in parts.items():
        own = {name: a for name, a in arrays.items() if name.startswith(prefix)}
        own |= {"classifier.1.bias": np.zeros(3, np.float32)} if prefix == "features" else {}
        tree, storages = {}, []
        for key, (name, a) in enumerate(own.items()):
            strides = tuple(step // 4 for step in a.strides)
            tree[name] = tensor(str(key), a.shape, strides, a.size)
            storages.append((str(key).encode(), a.ravel()))
        refused(lambda: load_lpips("alexnet", tmp_path), "lacks", file)
        write(tmp_path / file, tree, storages)
    jax.tree.map(np.testing.assert_array_equal, load_lpips("alexnet", tmp_path)[1], params)
    refused(lambda: load_lpips("vgg16", tmp_path), "vgg16-397923af.pth")
    refused(lambda: load_lpips("alexnet", tmp_path / "alex.pth"), "another architecture")
    refused(lambda: load_lpips("alexnet", tmp_path / "nowhere"), "doesn't exist", "alexnet-owt-7be5be79.pth")
