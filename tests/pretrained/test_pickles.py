"""Checkpoints of PyTorch: arrays come out of them; code in them never runs, and lies are refused with one line."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import pickletools
import zipfile

import numpy as np
import pytest
from hostile import Call, Global, checkpoint, damaged, read_or_refused, refused, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.errors import InputError
from ldm_jax.pretrained.pickles import Pickled
from ldm_jax.pretrained.tensors import read


def test_a_checkpoint(tmp_path):
    values = np.arange(6, dtype=np.float32)
    half = np.arange(3, dtype=np.float16)
    tree = {
        "state_dict": {
            "a.weight": tensor("0", (2, 3), (3, 1), 6),
            "b": tensor("0", (3, 2), (1, 3), 6),
            "c": tensor("0", (2,), (1,), 6, 3),
            "d": tensor("0", (), (), 6, 5),
            "e": tensor("1", (3,), (1,), 3, kind="HalfStorage"),
        },
        "epoch": 3,
        "callbacks": [Call("pytorch_lightning.callbacks", "ModelCheckpoint")],
        "hyper_parameters": Call("omegaconf.dictconfig", "DictConfig", {"x": 1}),
    }
    path = checkpoint(tmp_path / "model.ckpt", tree, {"0": values.tobytes(), "1": half.tobytes()})
    tensors = Pickled(path)
    grid = values.reshape(2, 3)
    expected = {"a.weight": grid, "b": grid.T, "c": values[3:5], "d": values[5], "e": half}
    assert set(tensors.info) == {f"state_dict.{name}" for name in expected}
    for name, value in expected.items():
        found = read(tensors, f"state_dict.{name}")
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


def test_what_training_code_keeps_beside_tensors(tmp_path):
    """Numbers of numpy, sets, types and devices are passed over; the tensors are read."""
    dtype = Call("numpy", "dtype", "f8", False, True)
    tree = {
        "best": Call("numpy.core.multiarray", "scalar", dtype, Call("_codecs", "encode", "abcdefgh", "latin1")),
        "newer": Call("numpy._core.multiarray", "scalar", dtype, Call("_codecs", "encode", "abcdefgh", "latin1")),
        "seen": Call("__builtin__", "set", [1, 2]),
        "log": Call("collections", "defaultdict", Global("__builtin__", "list")),
        "dtype": Global("torch", "float16"),
        "size": Call("torch", "Size", [1, 2]),
        "device": Call("torch", "device", "cuda", 0),
        "state_dict": Call("collections", "OrderedDict", [["w", tensor("0", (3,), (1,), 3)]]),
    }
    values = np.arange(3, dtype=np.float32)
    tensors = Pickled(checkpoint(tmp_path / "model.ckpt", tree, {"0": values.tobytes()}))
    assert list(tensors.info) == ["state_dict.w"]
    np.testing.assert_array_equal(read(tensors, "state_dict.w"), values)


@pytest.mark.parametrize(
    "call",
    [
        Call("os", "system", "touch RAN"),
        Call("posix", "system", "touch RAN"),
        Call("builtins", "eval", "open('RAN', 'w')"),
        Call("builtins", "exec", "open('RAN', 'w')"),
        Call("subprocess", "Popen", ["touch", "RAN"]),
        Call("torch", "load", "x"),
        Call("torch._utils", "__import__", "os"),
        Call("numpy.core.multiarray", "_reconstruct"),
        Call("collections", "namedtuple", "a", "b"),
        Call("omegaconf", "../../os.system", "touch RAN"),
        Global("os", "environ"),
        Call("pytorch_lightning_evil", "run", "touch RAN"),
    ],
)
def test_pickles_that_run_code(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path / "evil.ckpt", {"state_dict": call}, {})
    with contextlib.suppress(InputError):
        assert Pickled(path).info == {}
    assert not (tmp_path / "RAN").exists()


class _Exploit:
    def __reduce__(self):
        return os.system, ("touch RAN",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = pickle.dumps({"a": _Exploit(), "b": [collections.OrderedDict()]}, protocol)
    assert any(op.name in ("GLOBAL", "STACK_GLOBAL") for op, *_ in pickletools.genops(program))
    with zipfile.ZipFile("evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    refused(lambda: Pickled(tmp_path / "evil.pth"), "system")
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    ("tree", "data"),
    [
        ({"a": tensor("0", (2, 3), (3, 1), 7)}, {"0": bytes(24)}),
        ({"a": tensor("0", (2, 4), (4, 1), 6)}, {"0": bytes(24)}),
        ({"a": tensor("0", (2, 3), (3, 1), 6, 1)}, {"0": bytes(24)}),
        ({"a": tensor("0", (2, 3), (3, 1), 6, -1)}, {"0": bytes(24)}),
        ({"a": tensor("0", (2**30, 2**30), (0, 0), 6)}, {"0": bytes(24)}),
        ({"a": tensor("0", (2, 3), (3,), 6)}, {"0": bytes(24)}),
        ({"a": tensor("0", (-1,), (1,), 6)}, {"0": bytes(24)}),
        ({"a": tensor("9", (2,), (1,), 2)}, {"0": bytes(8)}),
        ({"a": tensor("../../etc/passwd", (2,), (1,), 2)}, {"0": bytes(8)}),
        ({"a": tensor("0", (2,), (1,), 2, kind="UntypedStorage")}, {"0": bytes(8)}),
        ({"a": Call("torch._utils", "_rebuild_tensor_v2", 1, 2, 3, 4)}, {}),
        ({"a": Call("torch._utils", "_rebuild_tensor_v2")}, {}),
    ],
)
def test_checkpoints_that_lie(tree, data, tmp_path):
    refused(lambda: Pickled(checkpoint(tmp_path / "x.ckpt", tree, data)), "x.ckpt")


def test_zip_bombs(tmp_path):
    tree = {"a": tensor("0", (2**24,), (1,), 2**24)}
    path = checkpoint(tmp_path / "bomb.ckpt", tree, {"0": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    refused(lambda: Pickled(path), "compressed")

    with zipfile.ZipFile(tmp_path / "program.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(65 << 20))
    refused(lambda: Pickled(tmp_path / "program.ckpt"), "at most")

    with zipfile.ZipFile(tmp_path / "none.ckpt", "w") as archive:
        archive.writestr("something", b"")
    refused(lambda: Pickled(tmp_path / "none.ckpt"), "data.pkl")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"a": 1}))
    refused(lambda: Pickled(tmp_path / "old.ckpt"), "no zip file")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_checkpoints(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    path = checkpoint(folder / "fuzz.ckpt", {"a": tensor("0", (2, 3), (3, 1), 6)}, {"0": bytes(range(24))})
    whole = damaged(data, path.read_bytes())
    path.write_bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))])
    read_or_refused(lambda: Pickled(path))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_programs_of_noise(tmp_path_factory, program):
    path = tmp_path_factory.getbasetemp() / "noise.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with contextlib.suppress(InputError):
        Pickled(path)
