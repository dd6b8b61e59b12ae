"""convert: whole folders and files, with a table of every tensor."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from safetensors.numpy import load_file, save_file

from ldm_jax.errors import InputError
from ldm_jax.models import Autoencoder, AutoencoderConfig
from ldm_jax.pretrained.conversion import convert
from ldm_jax.pretrained.parts import load_part, save_part


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


KL_ARGUMENTS = {
    *("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels", "layers_per_block"),
    *("act_fn", "latent_channels", "norm_num_groups", "sample_size", "scaling_factor", "shift_factor"),
    *("latents_mean", "latents_std", "force_upcast", "use_quant_conv", "use_post_quant_conv"),
    "mid_block_add_attention",
}
"""Of diffusers' AutoencoderKL, by its documentation."""


@pytest.mark.parametrize(("stem", "published"), [(1, True), (2, False)])
def test_a_first_stage_is_written_with_diffusers_arguments(stem, published, tmp_path):
    """As a run writes it, its latents' statistics included; diffusers refuses any other key that has no underscore."""
    shape = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "attention": False, "dtype": "bfloat16"}
    module = Autoencoder(AutoencoderConfig(image_channels=1, stem=stem, **shape))
    given = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), given)
    save_part(module, params, tmp_path, extra={"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4})
    record = json.loads((tmp_path / "config.json").read_text())
    others = {key for key in record if not key.startswith("_")} - KL_ARGUMENTS
    assert (record["_class_name"] == "AutoencoderKL") == published == (not others)
    assert load_part(tmp_path)[0].config == module.config
