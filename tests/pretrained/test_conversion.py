"""convert: whole folders and files, with a table of every tensor."""

from __future__ import annotations

import json

import numpy as np
import published
import pytest
from safetensors.numpy import load_file, save_file

from ldm_jax.errors import InputError
from ldm_jax.pretrained.conversion import convert


def test_a_part(tmp_path):
    lines: list[str] = []
    src = published.write("vae_sd", tmp_path / "src")
    found = convert(src, tmp_path / "dst", echo=lines.append)
    assert found.count("mapped") == len(published.tensors("vae_sd")) and found.count("missing") == 0
    assert "encoder.conv_in.weight" in lines[0] and "encoder/conv_in/kernel" in lines[0]
    assert lines[0].splitlines()[-1] == f"{found.count('mapped')} mapped, 0 derived, 0 left over, 0 missing"
    one, two = (load_file(tmp_path / x / "diffusion_pytorch_model.safetensors") for x in ("src", "dst"))
    assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)
    with pytest.raises(InputError, match="dst"):
        convert(src, tmp_path / "dst", echo=lines.append)


def test_left_over_and_missing_are_shown_before_anything_is_written(tmp_path):
    src = published.write("vae_sd", tmp_path / "src")
    tensors = dict(published.tensors("vae_sd"))
    tensors["odd"] = tensors.pop("quant_conv.bias")
    save_file(tensors, src / "diffusion_pytorch_model.safetensors")
    lines: list[str] = []
    with pytest.raises(InputError, match=r"lacks 1 tensors, quant_conv\.bias"):
        convert(src, tmp_path / "dst", echo=lines.append)
    assert "left over  : odd" in lines[0] and "missing    : quant_conv.bias" in lines[0]
    assert not (tmp_path / "dst").exists()
    convert(src, tmp_path / "dst", ignore=("odd", "quant_conv.*"), echo=lines.append)
    assert not load_file(tmp_path / "dst" / "diffusion_pytorch_model.safetensors")["quant_conv.bias"].any()


def test_a_pipeline(tmp_path):
    src = tmp_path / "src"
    published.write("unet_sd1", src / "unet")
    published.write("vae_sd", src / "vae")
    published.write("clip", src / "text_encoder")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": False,
    }
    # Drawing images needs no safety checker: it is left out, and the index says so.
    (src / "safety_checker").mkdir()
    (src / "safety_checker" / "config.json").write_text('{"architectures": ["StableDiffusionSafetyChecker"]}')
    (src / "scheduler").mkdir()
    (src / "scheduler" / "scheduler_config.json").write_text("{}")
    (src / "model_index.json").write_text(json.dumps(index))
    found = convert(src, tmp_path / "dst", dtype="bfloat16", echo=lambda text: None)
    assert {row.part for row in found.rows} == {"unet", "vae", "text_encoder"}
    left_out = {"safety_checker": [None, None]}
    assert json.loads((tmp_path / "dst" / "model_index.json").read_text()) == index | left_out
    for part, key in (("vae", "scaling_factor"), ("unet", "sample_size")):
        ours, theirs = (json.loads((room / part / "config.json").read_text()) for room in (tmp_path / "dst", src))
        assert ours.get(key) == theirs.get(key) and (key in ours or key == "sample_size")
    assert (tmp_path / "dst" / "scheduler" / "scheduler_config.json").is_file()
    assert (tmp_path / "dst" / "unet" / "config.json").is_file()

    (src / "model_index.json").write_text(json.dumps({"../vae": ["diffusers", "AutoencoderKL"]}))
    with pytest.raises(InputError, match="plain folder name"):
        convert(src, tmp_path / "other", echo=lambda text: None)


def test_original_layout(tmp_path):
    src = published.write("vae_sd", tmp_path / "src")
    with pytest.raises(InputError, match="layout"):
        convert(src, tmp_path / "x.safetensors", layout="original", echo=lambda text: None)
    src = published.write("dit", tmp_path / "dit")
    with pytest.raises(InputError, match="frequency shift"):
        convert(src, tmp_path / "x.safetensors", layout="original", echo=lambda text: None)
