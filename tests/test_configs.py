"""Every shipped config: it is described, it builds, and its experiment runs when shrunk."""

import ast
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.config import Config
from ldm_jax.configfile import load_config
from ldm_jax.errors import InputError
from ldm_jax.experiment import Run
from ldm_jax.smoke import shrink
from ldm_jax.stages import AutoencoderTraining
from tests.conditions.asking import check_asked
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("red", "blue"):
        (folder / name).mkdir()
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_docstring_tells_the_command(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python train.py configs/{path.name}" in text


LDM = ("kl-f4", "kl-f8", "kl-f16", "kl-f32", "vq-f4", "vq-f8", "vq-f8-n256", "vq-f16")


@pytest.mark.parametrize("name", LDM)
def test_ldm_family(name):
    config = load_config(f"{ROOT / 'configs' / 'ldm_autoencoder.py'}:{name}")
    assert Config.from_json(config.to_json()) == config
    kind, factor = name.split("-")[:2]
    assert config.autoencoder.factor == int(factor[1:])
    assert (config.stage(AutoencoderTraining).loss.reduction == "sum") == (kind == "kl")
    # The paper's table 8: the latents' resolutions where there is attention.
    sides = [config.data.image_size // 2**level for level in config.autoencoder.attention_levels]
    assert sides == {"kl-f16": [16], "kl-f32": [16, 8], "vq-f8": [32], "vq-f8-n256": [32], "vq-f16": [16]}.get(name, [])


def test_a_family_names_its_members():
    for member, message in (("kl-f5", "must be one of kl-f4"), ("", "must be one of kl-f4")):
        with pytest.raises(InputError, match=message):
            load_config(f"{ROOT / 'configs' / 'ldm_autoencoder.py'}:{member}")
    with pytest.raises(InputError, match="describes one experiment"):
        load_config(f"{ROOT / 'configs' / 'quickstart.py'}:large")


def test_shipped_configs_go_by_their_names_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config(ROOT / "configs" / "quickstart.py")
    member = f"{ROOT / 'configs' / 'ldm_autoencoder.py'}:kl-f8"
    assert load_config("ldm_autoencoder:kl-f8") == load_config(member)
    with pytest.raises(InputError, match=r"quickstar is not a file; .*, quickstart, shapes"):
        load_config("quickstar")
    (tmp_path / "quickstart").write_text("mine")  # what the user has comes first
    with pytest.raises(InputError, match="must end in"):
        load_config("quickstart")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_json_both_ways(path):
    config = load_config(path)
    assert Config.from_json(config.to_json()) == config


def asked(name, size, channels):
    """What a model of a config is asked for two pictures with; {}: another config has the same conditions."""
    grey = np.zeros((2, size, size, channels), np.uint8)
    return {
        "quickstart": {"labels": [2, 5]},
        "mean_flow": {"labels": [2, 5]},
        "edges": {"edges_of": grey, "labels": [2, 5]},
        "layout": {"layout": [[["blue ring", [0.1, 0.1, 0.5, 0.5]]], [("red star", (0.0, 0.25, 1.0, 0.75))]]},
        "super_resolution": {"image": grey[:, ::4, ::4]},
        "inpainting": {"image": grey, "mask": np.eye(size, dtype=bool)},
        "shapes": {"prompts": ["a cat", "dog"], "negative": "owl"},
        "imagenet256_dit_xl": {"labels": [0, 1]},
        "text_to_image_512": {"prompts": ["a cat", "dog"], "negative": "owl"},
    }.get(name, {})


ALWAYS = ("quickstart", "shapes", "unet")
"""Each kind of network, classes and texts; the others take minutes more, and .ci/run asks for them."""
SHRUNKEN = [path if path.stem in ALWAYS else pytest.param(path, marks=pytest.mark.slow) for path in CONFIGS]


@pytest.mark.parametrize("path", SHRUNKEN, ids=lambda p: p.stem)
def test_trains_when_shrunk(path, photos, tmp_path):
    """Two steps of each stage, saved; one of each kind of condition is loaded and asked."""
    config = shrink(load_config(path))
    source = f"folder:{photos}" if config.data.source.startswith("folder:") else config.data.source
    if path.stem == "text_to_image_512":
        source = "bundled:emoji"
    few = {"steps": 2, "sample_every": 2}
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source=source, limit=32),
        stages=tuple(dataclasses.replace(stage, **few) for stage in config.stages),
        sampling=dataclasses.replace(config.sampling, steps=2),
    )
    assert config.data.batch_size % jax.device_count() == 0
    # The gradient of JAX's own attention mixes types in bfloat16.
    short = any(stage.dtype == "bfloat16" for stage in config.stages)
    with jax.numpy_dtype_promotion("standard" if short else "strict"):
        run = Run(config, tmp_path / "run")
        picture = run.train()
    with Image.open(picture) as image:
        assert image.size[0] >= config.data.image_size
    if path.stem == "unet":
        written_as_diffusers(run)
    if asks := asked(path.stem, config.data.image_size, config.autoencoder.image_channels):
        check_asked(run, asks, tmp_path / "copy")


def written_as_diffusers(run):
    """The UNet's part of a finished run is a UNet2DModel; training its first stage once more leaves it there."""
    record = json.loads((run.workdir / "model" / "unet" / "config.json").read_text())
    assert (record["_class_name"], record["num_class_embeds"]) == ("UNet2DModel", 11)
    assert record["_ldm_jax"] == {"num_classes": 10, "time_scale": 1000.0}
    Run(run.config, run.workdir).train("autoencoder")
    model = ldm_jax.load(run.workdir)
    assert model.denoiser.config == run.config.denoiser
    size = run.config.data.image_size
    drawn = [model.sample(jax.random.key(0), labels=[3], steps=2, guidance=w) for w in (1.0, 3.0)]
    assert [x.shape for x in drawn] == [(1, size, size, 1)] * 2
    assert model.num_classes == 10
