"""Inpaint, Img2Img and Upscale pipelines draw diffusers' images here; tests/reference/uses.py made the references."""

from __future__ import annotations

import os
import subprocess

import jax
import numpy as np
import pipelines
import pytest

import ldm_jax
from ldm_jax import cli
from ldm_jax.data.decoding import decode
from ldm_jax.errors import InputError
from ldm_jax.images import write_png

USES = pipelines.script("uses").USES
KEY = jax.random.key(0)


FEW = ("sd15_inpaint", "sdxl_replace", "sd3_img2img", "sd2_upscale")
"""Each compiles a network for some seconds; the others are variations of these."""
CASES = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in USES]


class Lazy(dict):
    """Makes what is asked for, once."""

    def __init__(self, make):
        self._make = make

    def __missing__(self, name):
        return self.setdefault(name, self._make(name))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    room = tmp_path_factory.mktemp("uses")
    return Lazy(lambda name: pipelines.write(name, room / name))


@pytest.fixture(scope="module")
def models(folders):
    return Lazy(lambda name: ldm_jax.load(folders[name]))


def drawn(name, model, **more):
    """What the reference asks for, by our methods."""
    script, use = pipelines.script("uses"), USES[name]
    images = script.images(use)
    told = {
        "prompts": script.pipelines.PROMPTS,
        "steps": script.pipelines.STEPS,
        "guidance": 4.0,
        "compat": "diffusers",
    }
    told["latents"] = np.moveaxis(script.noise(use), 1, -1)
    if use.base in ("sd2", "sd3"):
        told["negative"] = script.pipelines.NEGATIVE
    told |= more
    if use.task == "edit":
        return model.edit(KEY, images, use.strength, **told)
    if use.task == "inpaint":
        return model.inpaint(KEY, images, script.mask(use), strength=use.strength, **told)
    noise = np.moveaxis(script.image_noise(use), 1, -1)
    return model.upscale(KEY, images, noise_level=script.LEVEL, image_noise=noise, **told)


@pytest.mark.parametrize("name", CASES)
def test_the_same_image(name, models):
    """To a hundredth of 1/255 on average, from the same noise."""
    model = models[name]
    assert model.published == USES[name].cls
    latents = drawn(name, model, output="latents")
    difference = np.abs(np.asarray(model.decode(latents)) / 2 + 0.5 - pipelines.data()[f"{name}/image"])
    assert difference.mean() < 0.01 / 255
    assert difference.max() < 1e-3


@pytest.mark.parametrize("name", CASES)
def test_saved_under_its_own_class(name, models, folders, tmp_path):
    models[name].save(tmp_path)
    again = ldm_jax.load(tmp_path)
    for field in ("autoencoder", "denoiser", "scheduler", "sampling", "shape", "published", "process"):
        assert getattr(again, field) == getattr(models[name], field)
    for one, two in zip(again.conditions, models[name].conditions, strict=True):
        assert one.describe() == two.describe()
    theirs = {path.relative_to(folders[name]) for path in folders[name].rglob("*.json")}
    ours = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")}
    assert {path for path in theirs if "tokenizer" not in str(path)} <= ours


def test_what_is_asked_for_matters(models):
    """Another mask, another noise level, other noise on the small image: each draws something else."""
    script, name = pipelines.script("uses"), "sd15_inpaint"
    use = USES[name]
    model, images, mask = models[name], script.images(use), script.mask(use)
    told = {
        "prompts": script.pipelines.PROMPTS,
        "steps": script.pipelines.STEPS,
        "guidance": 4.0,
        "compat": "diffusers",
    }
    told["latents"] = np.moveaxis(script.noise(use), 1, -1)
    one = model.inpaint(KEY, images, mask, **told)
    assert np.abs(one.astype(int) - model.inpaint(KEY, images, 1 - mask, **told)).mean() > 1
    pasted = model.inpaint(KEY, images, mask, paste=True, **told)
    np.testing.assert_array_equal(pasted[:, mask == 0], images[:, mask == 0])
    np.testing.assert_array_equal(pasted[:, mask == 1], one[:, mask == 1])
    model, small = models["sd2_upscale"], script.images(USES["sd2_upscale"])
    levels = [model.upscale(KEY, small, noise_level=level, **told) for level in (0, 20, 40)]
    np.testing.assert_array_equal(model.upscale(KEY, small, **told), levels[1])
    assert levels[0].shape == (2, 16, 16, 3)
    assert all(np.abs(one.astype(int) - levels[1]).mean() > 0.5 for one in (levels[0], levels[2]))
    other = model.upscale(jax.random.key(1), small, **told)
    assert np.abs(other.astype(int) - levels[1]).mean() > 0.1
    # Image 1 by itself, as sample.py draws it in a later batch.
    last = model.upscale(KEY, small[1:], first=1, **told | {"latents": told["latents"][1:], "prompts": told["prompts"]})
    assert np.abs(last.astype(int) - levels[1][1:]).max() <= 1


def test_strength_0_is_the_reconstruction(models):
    images, mask = (
        make(USES["sd15_inpaint"]) for make in (pipelines.script("uses").images, pipelines.script("uses").mask)
    )
    for name in ("sd15_inpaint", "sdxl_replace"):
        model = models[name]
        rebuilt = np.asarray(model.decode(model.encode(images)))
        same = model.inpaint(KEY, images, mask, strength=0, prompts=["a cat"])
        assert np.abs(same - (rebuilt / 2 + 0.5) * 255).max() <= 0.51


def test_wrong_input_is_one_line(models, folders, tmp_path):
    use = USES["sd15_inpaint"]
    images, mask = pipelines.script("uses").images(use), pipelines.script("uses").mask(use)
    prompts = {"prompts": ["a cat"]}
    cases = [
        (lambda: models["sd15_inpaint"].sample(KEY, **prompts), "mask: this model paints within images"),
        (lambda: models["sd15_inpaint"].sample(KEY, masked=images, **prompts), r"masked: .* must be \[n 16 16 5\]"),
        (
            lambda: models["sd15_inpaint"].inpaint(KEY, images, mask, strength=1.5),
            "strength: 1.5 must be between 0 and 1",
        ),
        (lambda: models["sd2_upscale"].upscale(KEY, images, noise_level=41), "noise_level: 41 must be .* 0 and 40"),
        (lambda: models["sd2_upscale"].upscale(KEY, images, noise_level=0.5), "noise_level: 0.5 must be"),
        (lambda: models["sd2_upscale"].sample(KEY, **prompts), "image: this model enlarges images"),
        (lambda: models["sd2_upscale"].upscale(KEY, images[..., :1]), "must have 3 channels"),
        (lambda: models["sdxl_replace"].upscale(KEY, images), "image: this model takes prompts"),
    ]
    for action, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            action()
        assert "\n" not in str(caught.value)
    index = (folders["sd15_inpaint"] / "model_index.json").read_text()
    (folders["sd15_inpaint"] / "model_index.json").write_text(
        index.replace("StableDiffusionInpaintPipeline", "StableDiffusionPipeline")
    )
    with pytest.raises(InputError, match=r"unet.in_channels: 9 must be 4"):
        ldm_jax.load(folders["sd15_inpaint"])
    (folders["sd15_inpaint"] / "model_index.json").write_text(index)


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
def test_diffusers_draws_from_what_we_save(name, models, tmp_path):
    """Under its own class, the same image; needs LDM_JAX_TORCH_PYTHON, a Python with diffusers."""
    python = os.environ.get("LDM_JAX_TORCH_PYTHON")
    if not python:
        pytest.skip("LDM_JAX_TORCH_PYTHON is not set")
    models[name].save(tmp_path)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("XLA", "JAX"))}
    script = [python, pipelines.ROOM / "uses.py", "check", name, tmp_path]
    done = subprocess.run(script, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_command(folders, tmp_path, capsys, monkeypatch):
    """sample.py paints in a picture, and enlarges one; what can't act is refused in one line."""
    # One device compiles faster than eight.
    monkeypatch.setattr("ldm_jax.pipeline.everywhere", lambda: None)
    use, small = USES["sd15_inpaint"], pipelines.script("uses").images(USES["sd2_upscale"])
    image, mask = pipelines.script("uses").images(use)[0], pipelines.script("uses").mask(use)
    files = {name: str(tmp_path / f"{name}.png") for name in ("image", "mask", "small", "odd")}
    write_png(tmp_path / "image.png", image)
    write_png(tmp_path / "mask.png", (255 * mask).astype(np.uint8)[..., None])
    write_png(tmp_path / "small.png", small[0])
    write_png(tmp_path / "odd.png", image[:8])
    out = ["--steps", "2", "--guidance", "1", "--out", str(tmp_path / "x.png"), "--overwrite"]
    painted = ["--image", files["image"], "--mask", files["mask"], "--paste", "--prompt", "a cat"]
    assert cli.run("sample", [str(folders["sd15_inpaint"]), *painted, *out]) == 0, capsys.readouterr().err
    drawn = decode(tmp_path / "x.png")
    np.testing.assert_array_equal(drawn[mask == 0], image[mask == 0])
    assert np.abs(drawn.astype(int) - image)[mask == 1].mean() > 3
    assert cli.run("sample", ["--again", str(tmp_path / "x.png"), "--out", str(tmp_path / "y.png")]) == 0
    np.testing.assert_array_equal(decode(tmp_path / "y.png"), drawn)
    assert (
        cli.run("sample", [str(folders["sd2_upscale"]), "--upscale", files["small"], "--noise-level", "9", *out]) == 0
    )
    assert decode(tmp_path / "x.png").shape == (16, 16, 3)
    capsys.readouterr()
    cases = [
        ("sd15_inpaint", ["--prompt", "a"], "mask: this model paints in images"),
        (
            "sd15_inpaint",
            [*painted[:2], "--mask", files["odd"], "--prompt", "a"],
            "mask: 8x16 must be of the image's size",
        ),
        ("sd2_upscale", ["--image", files["small"], "--strength", "0.5"], "it takes --upscale FILE"),
        ("sdxl_replace", ["--upscale", files["small"], "--prompt", "a"], "upscale: this model doesn't enlarge images"),
        ("sdxl_replace", ["--strength", "0.5", "--prompt", "a"], "strength: it changes nothing without --image FILE"),
        ("sdxl_replace", ["--image", files["image"], "--paste", "--prompt", "a"], "paste: it changes nothing without"),
        ("sdxl_replace", ["--image", files["image"], "--strength", "1.5"], "strength: 1.5 must be at most 1"),
        ("sdxl_replace", ["--prompt", "a", "--lora", "x=y"], "lora: 'x=y' must be FILE or FILE=WEIGHT"),
    ]
    for name, words, message in cases:
        assert cli.run("sample", [str(folders[name]), *words, *out]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
