"""Runs' metrics as one picture."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli import main
from ldm_jax.cli.command import WRONG_INPUT
from ldm_jax.experiment.curves import read_curves


def write_run(path, *rows, end=""):
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


AUTOENCODER = {"stage": "autoencoder", "step": 10, "loss": 0.5, "psnr": 20.0, "test_psnr": 19.0, "note": "text"}
DENOISER = [{"stage": "denoiser", "step": k, "loss": 1.0 / k, "grad_norm": 0.1 * k} for k in (1, 2, 3)]


def test_curves_are_what_the_run_logged(tmp_path):
    run = write_run(tmp_path / "a", AUTOENCODER, *DENOISER, end='{"stage": "denoiser", "st')
    curves = read_curves(run)
    assert curves["autoencoder"] == {"loss": [(10, 0.5)], "psnr": [(10, 20.0)], "test_psnr": [(10, 19.0)]}
    assert curves["denoiser"]["loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_one_picture_of_several_runs(tmp_path, capsys):
    """A panel more where a run has logged more, and each run's curve in a colour of its own."""
    one = write_run(tmp_path / "one", *DENOISER)
    two = write_run(tmp_path / "two", AUTOENCODER, *({**row, "loss": row["loss"] + 1} for row in DENOISER))
    sizes = []
    for runs, name in (([one], "x.png"), ([one, two], "y.png")):
        assert main(["plot", *map(str, runs), "--out", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            sizes.append(image.size)
            pixels = {tuple(p) for p in np.asarray(image.convert("RGB")).reshape(-1, 3)}
        assert ((255, 127, 14) in pixels) is (len(runs) == 2)  # the second run's orange
    assert sizes[1][1] == 2 * sizes[0][1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["absent"], "absent has no line in metrics.jsonl yet"),
        (["one", "one"], "one is named more than once"),
        (["one", "--out", "x.jpg"], "x.jpg must end in .png"),
        (["one", "--out", "there.png"], "there.png exists"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, args, said):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "one", *DENOISER)
    (tmp_path / "there.png").write_bytes(b"mine")
    assert main(["plot", *args]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert (tmp_path / "there.png").read_bytes() == b"mine" and not (tmp_path / "plot.png").exists()
