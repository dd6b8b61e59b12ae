"""Pipelines of diffusers draw the same images here; tests/reference/pipelines.py made the references."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pipelines
import pytest
from safetensors.numpy import load_file

import ldm_jax
from ldm_jax import cli
from ldm_jax.diffusion import samplers
from ldm_jax.errors import InputError
from ldm_jax.pipeline import OwnSampler, Recipe, Scheduler
from ldm_jax.pretrained.conversion import convert

NAMES = pipelines.script().NAMES
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    room = tmp_path_factory.mktemp("pipelines")
    return {name: pipelines.write(name, room / name) for name in NAMES}


@pytest.fixture(scope="module")
def models(folders):
    return {name: ldm_jax.load(folder) for name, folder in folders.items()}


def bare(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers 5 saves CLIPTextModel without the prefix that every published file has; it reads both."""
    return {key.removeprefix("text_model."): value for key, value in tensors.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_image(name, models):
    """The issue asks for a mean difference under 1/255; it is a hundredth of that, and nowhere more than 1/1000."""
    model, expected = models[name], pipelines.data()[f"{name}/image"]
    latents = model.sample(KEY, output="latents", **pipelines.arguments(name))
    difference = np.abs(np.asarray(model.decode(latents)) / 2 + 0.5 - expected)
    assert difference.mean() < 0.01 / 255
    assert difference.max() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_saved_back_bit_for_bit(name, models, folders, tmp_path):
    """Every tensor, scheduler, tokenizer and scale; loaded again, it is the same model."""
    model = models[name]
    model.save(tmp_path)
    for theirs in folders[name].rglob("*.safetensors"):
        one, two = (bare(load_file(path)) for path in (theirs, tmp_path / theirs.relative_to(folders[name])))
        assert one.keys() == two.keys()
        for key, value in one.items():
            np.testing.assert_array_equal(two[key], value, err_msg=key)
    for theirs in [*folders[name].glob("tokenizer*/*"), *folders[name].glob("scheduler/*")]:
        ours = tmp_path / theirs.relative_to(folders[name])
        assert json.loads(ours.read_text()) == json.loads(theirs.read_text()) if ours.suffix == ".json" else True
        assert ours.exists()
    ours, theirs = (json.loads((room / "model_index.json").read_text()) for room in (tmp_path, folders[name]))
    assert {key for key, value in theirs.items() if isinstance(value, list) and value[0]} <= ours.keys()
    for stage in ("vae", "vqvae"):
        if (folders[name] / stage).exists() and name != "upscale":
            ours, theirs = (
                json.loads((room / stage / "config.json").read_text()) for room in (tmp_path, folders[name])
            )
            for key in ("scaling_factor", "shift_factor"):
                assert ours.get(key) == theirs.get(key)
    again = ldm_jax.load(tmp_path)
    for field in ("autoencoder", "denoiser", "process", "scheduler", "sampling", "class_names", "shape", "published"):
        assert getattr(again, field) == getattr(model, field)
    np.testing.assert_array_equal(again.latent_mean, model.latent_mean)
    np.testing.assert_array_equal(again.latent_std, model.latent_std)


def test_scales_survive_conversion(folders, models, tmp_path):
    convert(folders["sd3"], tmp_path / "dst", echo=lambda text: None)
    again = ldm_jax.load(tmp_path / "dst")
    assert again.latent_mean[0] == 0.0609 and again.latent_std[0] == 1 / 1.5305
    assert (
        again.image_size == models["sd3"].image_size
        and again.text.encoders.keys() == models["sd3"].text.encoders.keys()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scaling_factor": 0}, "scaling_factor 0 must be a positive number"),
        ({"scaling_factor": "1"}, "scaling_factor '1'"),
        ({"shift_factor": [1]}, "shift_factor"),
        ({"latents_mean": [0.0], "latents_std": [1.0]}, "must have 4 numbers"),
    ],
)
def test_scales_that_are_none_are_refused(settings, message, folders, tmp_path):
    shutil.copytree(folders["sdxl"], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(InputError, match=message):
        ldm_jax.load(tmp_path)


def test_scales_per_channel(folders, tmp_path):
    """SDXL's finetunes with a mean and a deviation for each channel; they go back as they came."""
    shutil.copytree(folders["sdxl"], tmp_path / "a", dirs_exist_ok=True)
    path = tmp_path / "a" / "vae" / "config.json"
    statistics = {"latents_mean": [0.1, 0.0, -1.0, 2.0], "latents_std": [1.0, 2.0, 3.0, 4.0], "scaling_factor": 0.5}
    path.write_text(json.dumps(json.loads(path.read_text()) | statistics))
    model = ldm_jax.load(tmp_path / "a")
    np.testing.assert_array_equal(model.latent_mean, statistics["latents_mean"])
    np.testing.assert_array_equal(model.latent_std, [2.0, 4.0, 6.0, 8.0])
    model.save(tmp_path / "b")
    np.testing.assert_array_equal(ldm_jax.load(tmp_path / "b").latent_std, model.latent_std)


def test_prompts_are_their_embeddings(models):
    """cond and null take the place of prompts; another prompt, a negative one, draws something else."""
    model, asked = models["sd15"], pipelines.arguments("sd15")
    drawn = model.sample(KEY, **asked)
    assert drawn.dtype == np.uint8 and drawn.shape == (2, 16, 16, 3)
    assert np.abs(drawn / 255.0 - pipelines.data()["sd15/image"]).mean() < 1 / 255
    prompts = asked.pop("prompts")
    cond, null = model.text(prompts), model.text([""])
    np.testing.assert_array_equal(model.sample(KEY, cond=cond, null=null, **asked), drawn)
    np.testing.assert_array_equal(model.sample(KEY, cond=cond, **asked), drawn)
    assert np.abs(model.sample(KEY, prompts=prompts[::-1], **asked).astype(int) - drawn).max() > 2
    assert np.abs(model.sample(KEY, prompts=prompts, negative="cats", **asked).astype(int) - drawn).max() > 2


def test_the_null_of_sdxl_is_zero(models):
    """Unless the folder says otherwise, or a negative prompt is there."""
    text = models["sdxl"].text
    cond = text(["a cat"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(text.null(cond, None)))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(text.null(cond, [""])))


def test_the_tokens_of_a_missing_t5_are_zero(models):
    context = models["sd3"].text(["a cat"]).context
    assert context.shape == (1, 16 + 256, 36)
    assert not np.any(context[:, 16:]) and not np.any(context[:, :, 32:]) and np.all(context[:, :16, :32])


def test_a_t5_may_be_left_out(folders, models):
    """By name, or where the index names one that is not there."""
    whole, less = models["sd3_t5"].text, ldm_jax.load(folders["sd3_t5"], without=("text_encoder_3",)).text
    assert set(whole.encoders) - set(less.encoders) == {"text_encoder_3"}
    one, two = whole(["a cat"]).context, less(["a cat"]).context
    np.testing.assert_array_equal(one[:, :16], two[:, :16])
    assert np.any(one[:, 16:]) and not np.any(two[:, 16:])


def test_samplers_by_name_visit_the_levels_of_the_scheduler(models):
    """PNDM's own grid holds its warm-up; the other samplers get the levels that it stands for."""
    scheduler = models["sd15"].scheduler
    assert scheduler.record["_class_name"] == "PNDMScheduler"
    ddim = Scheduler(json.dumps({**scheduler.record, "_class_name": "DDIMScheduler", "clip_sample": False}))

    def plan(scheduler, sampler):
        return Recipe(scheduler.process, sampler, 7, scheduler=scheduler).plan()

    ours, theirs = plan(scheduler, samplers.SAMPLER_CHOICES["dpmpp_2m"]()), plan(ddim, OwnSampler())
    np.testing.assert_array_equal(ours.grid, theirs.grid)
    assert len(plan(scheduler, OwnSampler()).grid) > len(ours.grid) == 8


def test_bfloat16(folders):
    model = ldm_jax.load(folders["ldm"], dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.denoiser_params)} == {np.dtype("bfloat16")}
    assert model.denoiser.config.dtype == model.autoencoder.config.dtype == "bfloat16"
    one, two = (m.decode(np.ones((1, 4, 4, 3), np.float32)) for m in (model, ldm_jax.load(folders["ldm"])))
    np.testing.assert_allclose(one, two, atol=0.1)


def test_command(folders, tmp_path, capsys):
    """sample.py with a prompt, and with labels of a DiT."""
    out = tmp_path / "x.npz"
    few = ["--steps", "2", "--out", str(out), "--overwrite"]
    assert cli.run("sample", [str(folders["sd15"]), "--prompt", "a cat", "the mat", *few]) == 0
    with np.load(out) as file:
        assert file["arr_0"].shape == (2, 16, 16, 3) and "label" not in file
    assert cli.run("sample", [str(folders["dit"]), "--labels", "3", "999", "--num", "3", *few]) == 0
    with np.load(out) as file:
        assert file["arr_0"].shape == (3, 16, 16, 3)
        np.testing.assert_array_equal(file["label"], [3, 999, 3])
    assert cli.run("sample", [str(folders["upscale"]), "--image", str(tmp_path / "none.png"), *few]) == 2
    assert "none.png" in capsys.readouterr().err


WRONG = [
    ("sd15", {}, "prompt: this model draws from texts"),
    ("sd15", {"prompts": "a cat"}, "list of one text or more"),
    ("sd15", {"prompts": []}, "list of one text or more"),
    ("sd15", {"prompts": ["a", " "]}, "prompt: ' ' is spaces alone"),
    ("sd15", {"prompts": ["a"], "negative": " "}, "negative: ' ' is spaces alone"),
    ("sd15", {"prompts": ["a"], "negative": []}, "negative: give one text or more"),
    ("sd15", {"prompts": ["a"], "labels": [1]}, "label: this model takes prompts"),
    ("sd15", {"prompts": ["a"], "height": 15}, "height: 15 must be a multiple of 2"),
    ("sd15", {"prompts": ["a"], "compat": "diffusers", "sampler": "ddim"}, "compat"),
    ("sd15", {"prompts": ["a"], "sampler": "nothing"}, "sampler: 'nothing' must be one of scheduler, "),
    ("sd15", {"prompts": ["a"], "latents": np.zeros((2, 8, 8, 4), np.float32), "num": 3}, "latents: 2"),
    ("sd15", {"prompts": ["a"], "latents": np.zeros((1, 8, 8, 3), np.float32)}, "latents"),
    ("sd3", {"prompts": ["a"], "width": 6}, "width: 6 must be a multiple of 4"),
    ("dit", {"labels": [1000]}, "label: 1000 must be between 0 and 999"),
    ("dit", {"prompts": ["a"]}, "prompt: this model has no text encoder; it takes labels"),
    ("ldm", {"labels": [0]}, "label: this model is unconditional"),
    ("upscale", {}, "image: this model draws from images"),
    ("upscale", {"image": np.zeros((1, 8, 8, 4), np.float32)}, "must have 3 channels"),
]


@pytest.mark.parametrize(("name", "asked", "message"), WRONG)
def test_wrong_input_is_one_line(name, asked, message, models):
    with pytest.raises(InputError, match=message) as caught:
        models[name].sample(KEY, **asked)
    assert "\n" not in str(caught.value)


def test_other_pipelines_are_refused(folders, tmp_path):
    index = {"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="FluxPipeline"):
        ldm_jax.load(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "LDMPipeline"}))
    with pytest.raises(InputError, match="vqvae"):
        ldm_jax.load(tmp_path)
    with pytest.raises(InputError, match="dtype"):
        ldm_jax.load(folders["ldm"], dtype="float16")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_diffusers_draws_from_what_we_save(name, tmp_path):
    """Strictly loaded, bit for bit, the same image; needs LDM_JAX_TORCH_PYTHON, a Python with diffusers."""
    python = os.environ.get("LDM_JAX_TORCH_PYTHON")
    if not python:
        pytest.skip("LDM_JAX_TORCH_PYTHON is not set")
    script = Path(pipelines.ROOM) / "pipelines.py"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("XLA", "JAX"))}
    subprocess.run([python, script, "save", name, tmp_path / "theirs"], check=True, env=clean, capture_output=True)
    ldm_jax.load(tmp_path / "theirs").save(tmp_path / "ours")
    done = subprocess.run([python, script, "check", name, tmp_path / "ours"], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
