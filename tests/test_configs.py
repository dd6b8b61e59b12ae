"""Every shipped config: it is described, it builds, and its experiment runs when shrunk."""

import ast
import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.config import Config, load_config, shrink
from ldm_jax.training.run import Run
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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_json_both_ways(path):
    config = load_config(path)
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_trains_when_shrunk(path, photos, tmp_path):
    config = shrink(load_config(path))
    source = f"folder:{photos}" if config.data.source.startswith("folder:") else config.data.source
    few = {"steps": 2, "sample_every": 2}
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source=source, limit=32),
        autoencoder_training=dataclasses.replace(config.autoencoder_training, **few),
        denoiser_training=dataclasses.replace(config.denoiser_training, **few),
        sampling=dataclasses.replace(config.sampling, steps=2),
    )
    assert config.data.batch_size % jax.device_count() == 0
    picture = Run(config, tmp_path).train()
    with Image.open(picture) as image:
        assert image.size[0] >= config.data.image_size
