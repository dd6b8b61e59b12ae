"""ldm-jax batch: what is shown is what the stage's own batches hold."""

import re

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli import main
from ldm_jax.configfile import load_config
from ldm_jax.experiment.building import autoencoder_stage
from ldm_jax.experiment.parts import assemble, read_base


def test_it_shows_the_examples_of_a_step(trained, tmp_path, capfd):
    args = ["batch", str(trained), "--stage", "autoencoder", "--step", "3"]
    assert main([*args, "--out", str(tmp_path / "x.png")]) == 0
    *lines, _ = capfd.readouterr().out.splitlines()
    config = load_config(trained / "config.json")
    stage = autoencoder_stage(assemble(config, read_base(config, trained)), [])
    batch = dict(stage.batches(2, 3))[2]["image"]
    scale = 64 // batch.shape[1]
    shown = np.asarray(Image.open(tmp_path / "x.png"))[::scale, ::scale]
    h, w = batch.shape[1:3]
    tiles = shown.reshape(len(shown) // h, h, -1, w).swapaxes(1, 2).reshape(-1, h, w)
    np.testing.assert_allclose(tiles / 127.5 - 1.0, batch[..., 0], atol=1e-6)
    examples = [int(re.match(r"\d+: example (\d+), label \d \(", line)[1]) for line in lines]
    assert examples == stage.examples(2).tolist()
    assert main(["batch", str(trained), "--step", "3"]) == 0
    assert capfd.readouterr().out.splitlines() != lines


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--step", "0"], "step: "),
        (["--step", "9"], "step: 9 must be at most the denoiser's 8 steps"),
        (["--step", "1", "--out", "x.jpg"], "out: x.jpg must end in .png"),
    ],
)
def test_wrong_input(args, words, trained, capfd):
    assert main(["batch", str(trained), *args]) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_folder_that_is_no_run(tmp_path, capfd):
    assert main(["batch", str(tmp_path), "--step", "1"]) == 2
    assert capfd.readouterr().err == f"batch: error: run: {tmp_path} holds no config.json; name a run's folder\n"
