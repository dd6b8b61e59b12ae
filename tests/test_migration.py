"""What version 0.1 wrote is read: tests/reference/version_0_1.py made the fixtures with it."""

import json

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.config import Config, Pretrained
from ldm_jax.diffusion.schedules import Cosine, DiscreteBetas
from ldm_jax.diffusion.time_choices import LogitNormal, Uniform
from ldm_jax.errors import InputError
from ldm_jax.migration import renewed_config
from ldm_jax.models import UNetConfig
from ldm_jax.stages import AutoencoderTraining, DenoiserTraining
from tests.conftest import ROOT

OLD = ROOT / "tests" / "reference" / "version_0_1"


def test_its_model_draws_the_same():
    model = ldm_jax.load(OLD)
    assert model.shape == (32, 32, 1)
    assert model.class_names[9] == "Ankle boot"
    assert model.sampling.rule.interval == (0.1, 0.9)
    drawn = model.sample(jax.random.key(0), labels=[1, 2], steps=3, guidance=2.0, output="latents")
    np.testing.assert_allclose(drawn, np.load(OLD / "latents.npy"), atol=1e-5)


def test_its_config_is_the_same_experiment():
    old = json.loads((OLD / "config.json").read_text())
    config = Config.from_json((OLD / "config.json").read_text())
    first, second = config.stages
    for stage, name in ((first, "autoencoder_training"), (second, "denoiser_training")):
        for field in ("steps", "learning_rate", "warmup", "clip", "ema", "accumulate", "log_every"):
            assert getattr(stage, field) == old[name][field]
        assert stage.optimizer.beta2 == old[name]["beta2"]
        assert stage.decay.final == old[name]["final_learning_rate"]
    assert first.loss.kl_weight == old["autoencoder_loss"]["kl_weight"]
    assert config.conditions[0].dropout == old["diffusion"]["label_dropout"]
    assert config.process.times == LogitNormal(0.0, 1.0)
    assert config.sampling.rule.interval == (0.1, 0.9)
    assert (config.denoiser.num_classes, config.denoiser.width) == (10, 8)
    assert Config.from_json(config.to_json()) == config


def test_sections_that_became_kinds():
    old = {
        "autoencoder_from": "x",
        "autoencoder_trains": "nothing",
        "denoiser": {"type": "UNetConfig", "context_dim": 0, "linear_projection": True, "time_scale": 1.0},
        "diffusion": {"schedule": "linear", "prediction": "eps", "loss": "v", "times": "uniform"},
        "denoiser_training": {"steps": 3},
    }
    config = Config.from_json(json.dumps(old))
    assert config.autoencoder == Pretrained("x")
    assert config.stage(AutoencoderTraining) is None and config.stage(DenoiserTraining).steps == 3
    assert isinstance(config.denoiser, UNetConfig) and config.denoiser.time_scale == 1000.0
    assert config.conditions == ()
    assert config.process.schedule == DiscreteBetas("linear", 0.0001, 0.02)
    assert (config.process.prediction, config.process.loss, config.process.times) == ("eps", "v", Uniform())
    assert Config.from_json('{"diffusion": {"schedule": "cosine"}}').process.schedule == Cosine()


def test_what_is_wrong_in_an_old_file_is_one_line():
    for text, message in (
        ('{"denoiser_training": 3}', "denoiser_training: 3 must be an object"),
        ('{"denoiser_training": {"step": 3}}', "stages.1.step: unknown field"),
        ('{"diffusion": {"prediction": "noise"}}', "process.prediction: 'noise' must be one of"),
    ):
        with pytest.raises(InputError, match=message):
            Config.from_json(text)
    assert renewed_config({"seed": 3}) == {"seed": 3}
