"""What is shown while a run trains: TensorBoard's files, and Weights & Biases without a network."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from ldm_jax.errors import InputError
from ldm_jax.images import write_png
from ldm_jax.training import boards
from ldm_jax.training.record import Record

ROOT = Path(__file__).parents[2]


class Kept:
    """A board that keeps what it is told."""

    def __init__(self):
        self.told = []

    def write(self, stage, step, values):
        self.told.append((stage, step, dict(values)))

    def picture(self, stage, step, path):
        self.told.append((stage, step, path.name))

    def close(self, failed=False):
        self.told.append("closed")


def events(folder):
    (path,) = folder.iterdir()
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_every_board_is_told_the_same(tmp_path):
    kept = Kept()
    record = Record(tmp_path, "denoiser", 0, 2, batch_size=4, boards=(kept,))
    record.write(1, {"loss": 0.5}, 8.0)
    write_png(tmp_path / "x.png", np.zeros((4, 4, 1), np.uint8))
    record.picture(1, tmp_path / "x.png")
    record.add({"test_loss": 0.75})
    record.close()
    assert kept.told == [  # and not closed: it outlives the stage
        ("denoiser", 1, {"loss": 0.5, "images_per_second": 8.0}),
        ("denoiser", 1, "x.png"),
        ("denoiser", 1, {"test_loss": 0.75}),
    ]
    values = [
        (event.step, value) for event in events(tmp_path / "tensorboard" / "denoiser") for value in event.summary.value
    ]
    shown = {value.tag: value.simple_value for _, value in values if not value.HasField("image")}
    assert shown == {"denoiser/loss": 0.5, "denoiser/images_per_second": 8.0, "denoiser/test_loss": 0.75}
    (image,) = [value.image.encoded_image_string for _, value in values if value.HasField("image")]
    assert image == (tmp_path / "x.png").read_bytes()
    assert {step for step, _ in values} == {1}


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r'pip install "ldm-jax\[wandb\]"'):
        boards.WeightsAndBiases("cats", tmp_path, {})


needed = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")


@needed
def test_a_run_without_a_network(tmp_path):
    """Two stages' steps, a picture, what isn't finite left out; resumed, it goes on in the same place."""
    code = f"""
import pathlib, numpy as np
from ldm_jax.images import write_png
from ldm_jax.training.boards import WeightsAndBiases
work = pathlib.Path({str(tmp_path / "cats")!r})
write_png(work / "x.png", np.zeros((4, 4, 1), np.uint8))
board = WeightsAndBiases("pets", work, {{"denoiser": {{"depth": 3}}}})
board.write("autoencoder", 7, {{"loss": 0.5, "psnr": float("nan")}})
board.write("denoiser", 1, {{"loss": 2.0}})
board.picture("denoiser", 1, work / "x.png")
board.close()
"""
    (tmp_path / "cats").mkdir()
    env = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    first, second = sorted((tmp_path / "cats").glob("wandb/offline-run-*/*.wandb"))
    assert first.name == second.name  # the run's name there: it is resumed
    data = first.read_bytes()
    for told in (
        b"pets",
        b'{"depth":3}',
        b"autoencoder/loss",
        b"denoiser/loss",
        b"denoiser/pictures",
        b"denoiser/step",
    ):
        assert told in data
    assert b"autoencoder/psnr" not in data
    (picture,) = first.parent.glob("files/media/images/denoiser/*.png")
    assert picture.read_bytes() == (tmp_path / "cats" / "x.png").read_bytes()


@needed
def test_no_key_is_one_line(tmp_path):
    """Before anything is compiled."""
    env = os.environ | {"HOME": str(tmp_path), "WANDB_SILENT": "true", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    env = {name: value for name, value in env.items() if name not in ("WANDB_MODE", "WANDB_API_KEY")}
    command = ["-m", "ldm_jax", "train", "quickstart", "--smoke", "--wandb", "cats", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, *command], env=env, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and line.startswith("train: error: wandb: ")
    assert line.endswith("`wandb login`, or WANDB_MODE=offline to send it later")
    assert not (tmp_path / "run" / "autoencoder").exists()
