"""Every published architecture: loaded, equal outputs, saved back bit for bit; reference/networks.py made them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import published
import pytest
from safetensors.numpy import load_file

from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning, apply
from ldm_jax.pretrained import load_part, save_part
from ldm_jax.pretrained.formats import Fields
from ldm_jax.pretrained.names import pattern
from ldm_jax.pretrained.parts import open_part
from ldm_jax.pretrained.tables import FORMATS
from ldm_jax.pretrained.tensors import Arrays

TEXT = [name for name in published.NAMES if "clip" in name or "bert" in name or name == "t5"]
AUTOENCODERS = [name for name in published.NAMES if name.startswith(("vae", "vq", "tiny"))]
DENOISERS = [name for name in published.NAMES if name not in TEXT + AUTOENCODERS]


def close(ours, theirs) -> None:
    """Equal to 1e-4 of the largest value."""
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def prefixed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers 5 saves CLIPTextModel without the prefix that every published file has; it reads both."""
    bare = ("embeddings.position_embedding.weight" in tensors) and "final_layer_norm.weight" in tensors
    return {f"text_model.{key}": value for key, value in tensors.items()} if bare else tensors


@pytest.fixture(params=published.NAMES)
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders_agree(name, tmp_path):
    module, params = load_part(published.write(name, tmp_path))
    data = published.reference(name)
    encode = jax.jit(lambda x: apply(module, params, x, method="encode"))
    decode = jax.jit(lambda z: apply(module, params, z, method="decode"))
    for i in range(2):
        encoded = encode(data[f"{i}/x"])
        if f"{i}/logvar" in data:
            close(encoded.logvar, data[f"{i}/logvar"])
            encoded = encoded.mean
        close(encoded, data[f"{i}/encoded"])
        close(decode(data[f"{i}/z"]), data[f"{i}/decoded"])


@pytest.mark.parametrize("name", DENOISERS)
def test_denoisers_agree(name, tmp_path):
    module, params = load_part(published.write(name, tmp_path))
    data = published.reference(name)
    call = jax.jit(lambda z, t, cond: apply(module, params, z, t, cond))
    for i in range(2):
        parts = {field: data[f"{i}/{field}"] for field in Conditioning._fields if f"{i}/{field}" in data}
        if "label" in parts:
            parts["label"] = parts["label"].astype(np.int32)
        output = call(data[f"{i}/z"], data[f"{i}/t"].astype(np.float32), Conditioning(**parts))
        close(output, data[f"{i}/output"])


@pytest.mark.parametrize("name", TEXT)
def test_text_encoders_agree(name, tmp_path):
    module, params = load_part(published.write(name, tmp_path))
    data = published.reference(name)
    call = jax.jit(lambda ids, mask: apply(module, params, ids, mask))
    states = jax.jit(lambda ids, mask: apply(module, params, ids, mask, method="hidden_states"))
    for i in range(2):
        ids, mask = data[f"{i}/ids"], data.get(f"{i}/mask")
        encoding, hidden = call(ids, mask), states(ids, mask)
        counts = np.ones(ids.shape, bool) if mask is None else mask
        close(np.asarray(encoding.tokens)[counts], data[f"{i}/tokens"][counts])
        close(np.asarray(encoding.penultimate)[counts], data[f"{i}/states"][-2][counts])
        for ours, theirs in zip(hidden[:-1], data[f"{i}/states"][:-1], strict=True):
            close(np.asarray(ours)[counts], theirs[counts])
        if f"{i}/pooled" in data:
            close(encoding.pooled, data[f"{i}/pooled"])


def test_saved_back_bit_for_bit(name, tmp_path):
    module, params = load_part(published.write(name, tmp_path / "theirs"))
    save_part(module, params, tmp_path / "ours")
    file = published.description(name)["file"]
    ours, theirs = load_file(tmp_path / "ours" / file), prefixed(published.tensors(name))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
    again, _ = load_part(tmp_path / "ours")
    assert again == module


def test_settings_survive(name, tmp_path):
    """Every setting that we write is the one that was read; PyTorch builds the same network from it."""
    module, _ = load_part(published.write(name, tmp_path / "theirs"))
    save_part(module, _, tmp_path / "ours")
    ours = json.loads((tmp_path / "ours" / "config.json").read_text())
    theirs = published.description(name)["config"]
    flexible = ("_diffusers_version", "layers_per_block", "attention_head_dim", "projection_class_embeddings_input_dim")
    for key, value in ours.items():
        if key in theirs and key not in flexible and not key.startswith("_"):
            assert value == theirs[key] or (not value and not theirs[key]), key


def test_the_map_is_one_to_one(name, tmp_path):
    opened = open_part(published.write(name, tmp_path))
    forward = {name: path for path, source in opened.wanted.items() for name in source.names}
    assert sorted(forward) == sorted(prefixed(published.tensors(name)))
    assert len(forward) == sum(len(source.names) for source in opened.wanted.values())


def test_every_rule_is_used(tmp_path):
    """A row that no network needs is a row that no test has seen."""
    rows, seen = set(), set()
    for name in published.NAMES:
        opened = open_part(published.write(name, tmp_path / name))
        record = json.loads((tmp_path / name / "config.json").read_text())
        table = FORMATS[record.get("_class_name") or record["architectures"][0]].table(opened.module.config)
        parents = {path.rpartition("/")[0] for path in opened.wanted} | set(opened.wanted)
        for rule in table:
            rows.add((rule.published, rule.ours))
            if any(pattern(rule.ours).fullmatch(parent) for parent in parents):
                seen.add((rule.published, rule.ours))
    assert rows == seen


def test_unknown_settings_are_refused(tmp_path):
    fields = Fields({"a": 1, "off": False, "_private": 3}, "part")
    with pytest.raises(InputError, match=r"part\.a: 1"):
        fields.finish()
    assert Arrays({}).info == {}


@pytest.mark.slow
def test_pytorch_loads_what_we_save(name, tmp_path):
    """Strictly, bit for bit, the same outputs; needs LDM_JAX_TORCH_PYTHON, a Python with diffusers and transformers."""
    python = os.environ.get("LDM_JAX_TORCH_PYTHON")
    if not python:
        pytest.skip("LDM_JAX_TORCH_PYTHON is not set")
    script = Path(published.ROOM) / "networks.py"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("XLA", "JAX"))}
    subprocess.run([python, script, "save", name, tmp_path / "theirs"], check=True, env=clean, capture_output=True)
    module, params = load_part(tmp_path / "theirs")
    save_part(module, params, tmp_path / "ours")
    done = subprocess.run([python, script, "check", name, tmp_path / "ours"], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
