"""Files that lie: each is refused with one line, and nothing in them runs."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import published
import pytest
from hostile import damaged, read_or_refused, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.errors import InputError
from ldm_jax.pretrained import load_part
from ldm_jax.pretrained.folders import find_weights, open_file
from ldm_jax.pretrained.tensors import Safetensors, Shards

NAME = "ldm_bert"


def safetensors(header: dict | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        safetensors({"a": ENTRY}, bytes(4)),
        safetensors({"a": ENTRY}, bytes(12)),
        safetensors({"a": ENTRY}, bytes(8), length=2**63),
        safetensors({"a": ENTRY}, bytes(8), length=99_999_999),
        safetensors(b"not json", bytes(8)),
        safetensors(b"[1]", bytes(8)),
        safetensors(b"[" * 100_000, bytes(8)),
        safetensors({"a": {**ENTRY, "shape": [2**40, 2**40]}}, bytes(8)),
        safetensors({"a": {**ENTRY, "shape": [-2]}}, bytes(8)),
        safetensors({"a": {**ENTRY, "shape": [2.0]}}, bytes(8)),
        safetensors({"a": {**ENTRY, "shape": "2"}}, bytes(8)),
        safetensors({"a": {**ENTRY, "data_offsets": [8, 0]}}, bytes(8)),
        safetensors({"a": {**ENTRY, "data_offsets": [0, 8, 9]}}, bytes(8)),
        safetensors({"a": {**ENTRY, "data_offsets": [2**61, 2**61 + 8]}}, bytes(8)),
        safetensors({"a": {**ENTRY, "dtype": "F8_E4M3"}}, bytes(8)),
        safetensors({"a": {**ENTRY, "dtype": ["F32"]}}, bytes(8)),
        safetensors({"a": ENTRY, "b": ENTRY}, bytes(8)),
        safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [12, 20]}}, bytes(20)),
        safetensors({"a": 3}, bytes(8)),
    ],
)
def test_safetensors_that_lie(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(lambda: Safetensors(path), "model.safetensors")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_safetensors(tmp_path_factory, data):
    """Any byte changed, any tail cut: the file is read as it says, or refused; no other error, no other length."""
    whole = safetensors({"a": ENTRY, "b": {**ENTRY, "shape": [1, 1], "data_offsets": [8, 12]}}, bytes(range(12)))
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(damaged(data, whole, most=1)[: data.draw(st.integers(0, len(whole)))])
    read_or_refused(lambda: Safetensors(path))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_headers_of_noise(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    path.write_bytes(safetensors(noise))
    with contextlib.suppress(InputError):
        Safetensors(path)


def test_a_tensor_missing_left_over_or_of_another_shape(tmp_path):
    folder = published.write(NAME, tmp_path)
    file = folder / published.description(NAME)["file"]
    from safetensors.numpy import save_file

    whole = published.tensors(NAME)
    name = min(whole)
    save_file({k: v for k, v in whole.items() if k != name}, file)
    refused(lambda: load_part(folder), "lacks 1 tensors", name)
    _, params = load_part(folder, ignore=(name,))
    assert any(not np.any(leaf) for leaf in _leaves(params))

    save_file({**whole, "extra.weight": np.zeros(2, np.float32)}, file)
    refused(lambda: load_part(folder), "has besides 1 tensors", "extra.weight")
    load_part(folder, ignore=("extra.*",))

    save_file({**whole, name: whole[name][:-1]}, file)
    refused(lambda: load_part(folder), name, "shape")

    save_file({**whole, name: whole[name].astype(np.int32)}, file)
    refused(lambda: load_part(folder), name, "int32")


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def sharded(folder: Path, names: dict[str, str] | None = None, keep: int = 2) -> Path:
    """The model in two shards with an index; names replaces shard names in the index."""
    from safetensors.numpy import save_file

    published.write(NAME, folder)
    (folder / published.description(NAME)["file"]).unlink()
    whole = published.tensors(NAME)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = [dict(list(whole.items())[::2]), dict(list(whole.items())[1::2])]
    for file, half in list(zip(files, halves, strict=True))[:keep]:
        save_file(half, folder / file)
    places = {key: (names or {}).get(file, file) for file, half in zip(files, halves, strict=True) for key in half}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards(tmp_path):
    sharded(tmp_path / "shards")
    _, params = load_part(tmp_path / "shards")
    _, whole = load_part(published.write(NAME, tmp_path / "whole"))
    for one, two in zip(_leaves(params), _leaves(whole), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_shard_missing(tmp_path):
    sharded(tmp_path, keep=1)
    refused(lambda: load_part(tmp_path), "model-00002-of-00002.safetensors", "missing")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x", "", ".", ".."])
def test_an_index_that_leaves_its_folder(name, tmp_path):
    (tmp_path / "secret.safetensors").write_bytes(safetensors({"a": ENTRY}, bytes(8)))
    index = sharded(tmp_path / "part", {"model-00002-of-00002.safetensors": name})
    refused(lambda: Shards(index, open_file), "not a plain file name")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "{" * 9999])
def test_an_index_that_is_none(text, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    refused(lambda: Shards(path, open_file), "model.safetensors.index.json")


def test_an_index_that_disagrees_with_its_shards(tmp_path):
    index = sharded(tmp_path)
    record = json.loads(index.read_text())
    name = min(record["weight_map"])
    index.write_text(json.dumps({"weight_map": {**record["weight_map"], "ghost": "model-00001-of-00002.safetensors"}}))
    refused(lambda: load_part(tmp_path), "ghost")
    del record["weight_map"][name]
    index.write_text(json.dumps(record))
    refused(lambda: load_part(tmp_path), name)


def test_variants(tmp_path):
    from safetensors.numpy import save_file

    folder = published.write(NAME, tmp_path)
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert find_weights(folder).name == "model.fp16.safetensors"
    save_file(published.tensors(NAME), folder / "model.non_ema.safetensors")
    refused(lambda: find_weights(folder), "fp16, non_ema")
    assert find_weights(folder, "fp16").name == "model.fp16.safetensors"
    refused(lambda: find_weights(folder, "bf16"), "fp16, non_ema")
    save_file(published.tensors(NAME), folder / "model.safetensors")
    assert find_weights(folder).name == "model.safetensors"
    refused(lambda: find_weights(tmp_path / "nowhere"), "no weights")


def test_configs_that_are_wrong(tmp_path):
    refused(lambda: load_part(tmp_path), "config.json")
    folder = published.write("unet_sd1", tmp_path / "unet")
    for change, words in (
        ({"_class_name": "UNet3D"}, ("UNet3D",)),
        ({"act_fn": "mish"}, ("act_fn", "mish")),
        ({"block_out_channels": "x"}, ("block_out_channels",)),
        ({"block_out_channels": [8, 2**40]}, ("block_out_channels",)),
        ({"cross_attention_norm": "layer_norm"}, ("cross_attention_norm",)),
        ({"attention_head_dim": 3}, ("heads",)),
        ({"norm_num_groups": None}, ("norm_num_groups",)),
    ):
        published.write("unet_sd1", folder, **change)
        refused(lambda: load_part(folder), *words)


def test_other_endings(tmp_path):
    (tmp_path / "model.h5").write_bytes(struct.pack("<Q", 3))
    refused(lambda: open_file(tmp_path / "model.h5"), "model.h5", ".safetensors")
    refused(lambda: open_file(tmp_path / "nothing.safetensors"), "not a file")
