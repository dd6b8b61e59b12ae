"""Single files of LDM and SD3 against what the original code computes; reference/original_networks.py made it."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import published
import pytest
from safetensors.numpy import save_file

from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning, apply
from ldm_jax.pretrained import load_part
from ldm_jax.pretrained.single_file import load_single

with np.load(published.ROOM / "original_networks.npz", allow_pickle=False) as file:
    DATA = dict(file)


def tensors(name: str) -> dict[str, np.ndarray]:
    shapes = json.loads(str(DATA[f"{name}/shapes"]))
    return {key: published.script().weights(key, tuple(shape)) for key, shape in shapes.items()}


def close(ours, theirs) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def denoised(part, name: str) -> jax.Array:
    module, params = part
    told = {field: DATA[f"{name}/{field}"] for field in Conditioning._fields if f"{name}/{field}" in DATA}
    call = jax.jit(lambda z, t, cond: apply(module, params, z, t, cond))
    return call(DATA[f"{name}/z"], DATA[f"{name}/t"], Conditioning(**told))


def test_unconditional_ldm(tmp_path):
    """qkv of plain attention has its heads outermost; the first stage is VQ, with attention at its coarser level."""
    save_file(tensors("ldm"), tmp_path / "x.safetensors")
    parts = load_single(tmp_path / "x.safetensors")
    assert set(parts) == {"unet", "vae"}
    assert parts["unet"][0].config.heads == (1, 2) and parts["vae"][0].config.attention_levels == (1,)
    close(denoised(parts["unet"], "ldm"), DATA["ldm/output"])
    module, params = parts["vae"]
    encoded = jax.jit(lambda x: apply(module, params, x, method="encode"))(DATA["ldm/x"])
    close(encoded, DATA["ldm/encoded"])
    close(jax.jit(lambda z: apply(module, params, z, method="decode"))(DATA["ldm/encoded"]), DATA["ldm/decoded"])


@pytest.mark.parametrize("name", ["sd3", "sd35"])
def test_sd3(name, tmp_path):
    """The last modulations have shift before scale; SD3.5 has norms of queries and keys and a second attention."""
    save_file(tensors(name), tmp_path / "x.safetensors")
    ((part, loaded),) = load_single(tmp_path / "x.safetensors").items()
    assert part == "transformer" and loaded[0].config.dual_layers == ((0,) if name == "sd35" else ())
    close(denoised(loaded, name), DATA[f"{name}/output"])


def test_sd3_with_its_text_encoders(tmp_path):
    """Three encoders under transformers' names; a CLIP without projection pools as with the identity."""
    whole = tensors("sd3")
    # transformers 5 saves CLIPTextModel without the prefix that published files have.
    places = (
        ("clip_l.transformer.text_model", "clip"),
        ("clip_g.transformer", "clip_gelu"),
        ("t5xxl.transformer", "t5"),
    )
    for prefix, name in places:
        whole |= {f"text_encoders.{prefix}.{key}": value for key, value in published.tensors(name).items()}
    whole["text_encoders.clip_l.logit_scale"] = np.zeros((), np.float32)
    save_file(whole, tmp_path / "x.safetensors")
    parts = load_single(tmp_path / "x.safetensors")
    assert set(parts) == {"transformer", "text_encoder", "text_encoder_2", "text_encoder_3"}
    for part, name in (("text_encoder", "clip"), ("text_encoder_2", "clip_gelu"), ("text_encoder_3", "t5")):
        _, expected = load_part(published.write(name, tmp_path / name))
        jax.tree.map(np.testing.assert_array_equal, parts[part][1], expected)
    assert parts["text_encoder_2"][0].config.projection == 10
    # Shapes tell everything but the distance from which on T5's biases are shared.
    config = load_part(tmp_path / "t5")[0].config
    assert parts["text_encoder_3"][0].config == dataclasses.replace(config, farthest=128)


def test_what_is_not_known_is_refused(tmp_path):
    whole = tensors("ldm")
    name = "model.diffusion_model.input_blocks.1.0.emb_layers.1"
    for leaf in ("weight", "bias"):
        whole[f"{name}.{leaf}"] = np.concatenate([whole[f"{name}.{leaf}"]] * 2)
    save_file(whole, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="scales and shifts"):
        load_single(tmp_path / "x.safetensors")
    save_file({"model.diffusion_model.x": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="denoiser that is not known"):
        load_single(tmp_path / "x.safetensors")
    save_file({**tensors("sd3"), "text_encoders.odd": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"text_encoders\.odd"):
        load_single(tmp_path / "x.safetensors")
