"""Signals that are no pictures: one axis of time through both stages, cached, trained, saved and drawn."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.cli import run
from ldm_jax.data import Loader, open_source
from ldm_jax.errors import InputError
from ldm_jax.experiment import Run
from ldm_jax.models import AutoencoderConfig, DiTConfig, UNetConfig
from ldm_jax.pipeline import Sampling
from ldm_jax.stages.autoencoder_config import AutoencoderLoss


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Sines of two frequencies, float32 [64 32 2], with labels."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("waves") / "waves.npz"
    labels = np.arange(64) % 2
    phase = rng.uniform(0, 2 * np.pi, (64, 1))
    angle = (1.0 + labels[:, None]) * np.arange(32)[None] * (2 * np.pi / 16) + phase
    np.savez(path, signals=np.stack([np.sin(angle), np.cos(angle)], -1).astype(np.float32), labels=labels)
    return path


DIT = DiTConfig(patch=2, width=16, depth=1, heads=2, rope=True)
UNET = UNetConfig(channels=(8, 16), blocks=1, attention=(0, 1), heads=(1, 2), groups=4)


@pytest.mark.parametrize("denoiser", [DIT, pytest.param(UNET, marks=pytest.mark.slow)], ids=["dit", "unet"])
def test_a_signal_of_rank_one_trains_both_stages(denoiser, waves, tiny_config, tmp_path):
    loss = AutoencoderLoss("l2", kl_weight=1e-4)
    config = dataclasses.replace(
        tiny_config,
        data=dataclasses.replace(tiny_config.data, source=f"npz:{waves}", batch_size=16, limit=0),
        autoencoder=AutoencoderConfig(2, 3, 8, (1, 1), 1, 2, False, 4),
        denoiser=denoiser,
        sampling=Sampling(steps=3, guidance=2.0),
    ).with_stages(autoencoder={"steps": 12, "loss": loss, "sample_every": 12}, denoiser={"steps": 4, "sample_every": 4})
    trained = Run(config, tmp_path)
    trained.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().split("\n") if line]
    first = [line["reconstruction"] for line in lines if line["stage"] == "autoencoder"]
    assert first[-1] < 0.9 * first[0]
    assert not (tmp_path / "samples").exists()
    model = ldm_jax.load(tmp_path)
    assert (model.shape, model.latent_shape) == ((32, 2), (8, 3))
    drawn = model.sample(jax.random.key(0), labels=[0, 1, 1])
    assert drawn.shape == (3, 32, 2) and drawn.dtype == np.float32 and np.abs(drawn).max() <= 1.0
    z = model.encode(np.load(waves)["signals"][:4])
    assert z.shape == (4, 8, 3) and model.decode(z).shape == (4, 32, 2)


def test_signals_are_used_as_they_are(waves):
    loader = Loader(open_source(f"npz:{waves}"), batch_size=8, image_size=999, channels=2, seed=0)
    batch = loader[3]
    signals = np.load(waves)["signals"]
    assert loader.shape == (32, 2)
    source = open_source(f"npz:{waves}")
    np.testing.assert_array_equal(batch["image"], np.stack([source[int(i)].image for i in batch["example"]]))
    assert any(np.array_equal(batch["image"][0], signal) for signal in signals)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"signals": np.zeros((4, 8), np.float32)}, r"signals is float32 \[4, 8\]; accepted: floats \[n \*space c\]"),
        ({"signals": np.zeros((4, 8, 1), np.int64)}, "signals is int64"),
        ({"signals": np.full((4, 8, 1), 2.0)}, r"signals go up to 2; accepted: \[-1, 1\]"),
        ({"signals": np.full((4, 8, 1), np.nan)}, "signals go up to nan"),
    ],
)
def test_signals_that_are_none(arrays, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=message):
        open_source(f"npz:{tmp_path / 'x.npz'}")


def test_signals_and_the_options_of_pictures(waves):
    for settings, message in (({"channels": 1}, "channels .2. must be the autoencoder's 1"), ({"flip": True}, "flip")):
        with pytest.raises(InputError, match=message):
            Loader(
                open_source(f"npz:{waves}"), **{"batch_size": 8, "image_size": 8, "channels": 2, "seed": 0, **settings}
            )


def test_a_picture_cannot_be_written_of_them(waves, capsys):
    """Only npz files hold what has no picture."""
    assert run("train", ["configs/quickstart.py", "--data.source", f"npz:{waves}", "--workdir", "/proc/nowhere"]) == 2
    assert "channels (2) must be the autoencoder's 1" in capsys.readouterr().err
