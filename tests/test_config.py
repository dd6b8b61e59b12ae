import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.config import Config, DataConfig, TrainingConfig, load_config
from ldm_jax.errors import InputError
from ldm_jax.models import AutoencoderConfig, DiTConfig, UNetConfig
from ldm_jax.smoke import shrink


@settings(deadline=None, max_examples=50)
@given(st.builds(TrainingConfig, learning_rate=st.floats(0, 1), steps=st.integers(1, 9), ema=st.floats(0, 0.99)))
def test_json_both_ways(training):
    config = Config(denoiser_training=training, autoencoder=AutoencoderConfig(multipliers=(1, 2, 2)))
    assert Config.from_json(config.to_json()) == config


def test_json_takes_an_int_for_a_float_and_part_of_the_fields():
    config = Config.from_json('{"denoiser_training": {"learning_rate": 1}, "seed": 4}')
    assert config.denoiser_training.learning_rate == 1.0
    assert config == Config(seed=4, denoiser_training=TrainingConfig(learning_rate=1.0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "Config"),
        ('{"sed": 1}', "sed: unknown field; accepted: data"),
        ('{"data": {"image_sise": 1}}', "data.image_sise: unknown field"),
        ('{"data": {"image_size": "32"}}', "data.image_size: '32' must be int"),
        ('{"data": {"flip": 1}}', "data.flip: 1 must be bool"),
        ('{"seed": true}', "seed: True must be int"),
        ('{"parallel": "gpus"}', "parallel: 'gpus' must be one of 'pmap', 'fsdp'"),
        ('{"autoencoder": {"multipliers": [1, "2"]}}', "autoencoder.multipliers: '2' must be int"),
        ('{"sampling": {"interval": [0.1]}}', "sampling.interval"),
        ('{"denoiser": {"type": "MMDiTConfig"}}', "denoiser.type: 'MMDiTConfig' must be one of DiTConfig, UNetConfig"),
        ('{"data": 3}', "data: 3 must be an object"),
    ],
)
def test_bad_json_names_the_field(text, words):
    with pytest.raises(InputError) as caught:
        Config.from_json(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Config(data=DataConfig(image_size=36)), "data.image_size: 36 must be a multiple of the down-sampling"),
        (lambda: Config(denoiser=DiTConfig(patch=3)), "denoiser.patch: 3 must divide"),
        (lambda: Config(denoiser=DiTConfig(in_channels=5)), "denoiser.in_channels: 5"),
        (lambda: Config(denoiser=UNetConfig(context_dim=768)), "denoiser.context_dim: 768 must be 0"),
        (lambda: Config(denoiser=UNetConfig(context_dim=0, class_rows=9)), "denoiser.class_rows: 9 must be 0"),
        (lambda: UNetConfig(num_classes=9, class_rows=9), "num_classes: 9 must be -1, 0 or one less than class_rows"),
        (lambda: Config(data=DataConfig(batch_size=0)), "data.batch_size: 0"),
        (lambda: TrainingConfig(ema=1.0), "ema"),
        (lambda: TrainingConfig(learning_rate=-1.0), "learning_rate"),
    ],
)
def test_checked_when_built(build, words):
    with pytest.raises(InputError, match=words):
        build()


def test_resolve_fills_in_what_the_data_decides():
    config = Config(denoiser=DiTConfig(num_classes=-1), autoencoder=AutoencoderConfig(latent_channels=7))
    denoiser = config.resolve(12).denoiser
    assert (denoiser.num_classes, denoiser.in_channels, denoiser.out_channels) == (12, 7, 7)
    assert Config().resolve(12).denoiser.num_classes == 0
    with pytest.raises(InputError, match="num_classes: 5 must be"):
        Config(denoiser=DiTConfig(num_classes=5)).resolve(12)


def test_resolve_makes_a_published_unet_one_of_training():
    config = Config(
        denoiser=UNetConfig(context_dim=0, num_classes=-1), autoencoder=AutoencoderConfig(latent_channels=7)
    ).resolve(12)
    denoiser = config.denoiser
    assert (denoiser.num_classes, denoiser.class_rows, denoiser.in_channels, denoiser.out_channels) == (12, 13, 7, 7)
    assert denoiser.time_scale == 1000.0
    assert config.resolve(12) == config
    assert Config.from_json(config.to_json()) == config
    assert Config(denoiser=UNetConfig(context_dim=0)).resolve(12).denoiser.class_rows == 0


def test_shrink_keeps_the_experiments_shape():
    small = shrink(Config(denoiser=DiTConfig(num_classes=-1, rope=True), data=DataConfig(image_size=256)))
    assert small.denoiser.rope
    assert small.autoencoder.factor == Config().autoencoder.factor
    assert small.data.image_size < 256
    assert small.denoiser_training.steps <= 24
    assert shrink(small) == small


def test_load_config_from_python_and_json(tmp_path):
    (tmp_path / "a.py").write_text("from ldm_jax import Config\ndef get_config():\n    return Config(seed=7)\n")
    assert load_config(tmp_path / "a.py").seed == 7
    (tmp_path / "a.json").write_text(json.dumps({"seed": 8}))
    assert load_config(tmp_path / "a.json").seed == 8


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.py", "def get_config(:", "line 1 is not Python"),
        ("a.py", "x = 1", "defines no get_config"),
        ("a.py", "def get_config(): return 3", "gives int, not ldm_jax.Config"),
        ("a.yaml", "", "must end in .py or .json"),
    ],
)
def test_bad_config_files(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        load_config(tmp_path / name)
    with pytest.raises(InputError, match="is not a file"):
        load_config(tmp_path / "missing.py")


def test_configs_are_hashable():
    assert len({Config(), dataclasses.replace(Config(), seed=1), Config()}) == 2
