import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.conditions import Label
from ldm_jax.config import Config, DataConfig, Pretrained
from ldm_jax.configfile import load_config
from ldm_jax.diffusion.guidance_choices import ClassifierFree as SAMPLING_RULE
from ldm_jax.errors import InputError
from ldm_jax.models import AutoencoderConfig, DiTConfig, UNetConfig, VQConfig
from ldm_jax.pipeline import Sampling
from ldm_jax.serialization import with_options
from ldm_jax.smoke import shrink
from ldm_jax.stages import Adapter, AutoencoderTraining, DenoiserTraining
from ldm_jax.training.optimizers import RULES, AdamW


@settings(deadline=None, max_examples=50)
@given(st.builds(DenoiserTraining, learning_rate=st.floats(0, 1), steps=st.integers(1, 9), ema=st.floats(0, 0.99)))
def test_json_both_ways(training):
    stages = (AutoencoderTraining(), training)
    config = Config(stages=stages, autoencoder=AutoencoderConfig(multipliers=(1, 2, 2)))
    assert Config.from_json(config.to_json()) == config


def test_json_takes_an_int_for_a_float_and_part_of_the_fields():
    config = Config.from_json(
        '{"stages": [{"type": "denoiser", "learning_rate": 1}], "seed": 4, "autoencoder": "vq", '
        '"denoiser": {"type": "Pretrained", "path": "x"}}'
    )
    assert config.stage(DenoiserTraining).learning_rate == 1.0
    rest = {"seed": 4, "autoencoder": VQConfig(), "denoiser": Pretrained("x")}
    assert config == Config(stages=(DenoiserTraining(learning_rate=1.0),), **rest)


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
        ('{"sampling": {"rule": {"interval": [0.1]}}}', "sampling.rule.interval"),
        ('{"sampling": {"sampler": "eulr"}}', "sampling.sampler: 'eulr' must be one of ddpm, ddim, euler"),
        ('{"sampling": {"guidance": NaN}}', "sampling.guidance: nan must be a finite number"),
        ('{"denoiser": {"type": "Transformer"}}', "denoiser.type: 'Transformer' must be one of DiTConfig, UNetConfig"),
        ('{"stages": [{"type": "denoiser"}, {"type": "denoiser"}]}', "stages: denoiser, denoiser must be"),
        ('{"conditions": ["label", "label"]}', "conditions: label, label must name each kind once"),
        ('{"stages": [{"type": "denoiser", "betas": 3}]}', "stages.0.betas: unknown field"),
        ('{"format": 3}', "format 3 is newer"),
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
        (lambda: Config(sampling=Sampling(guidance=3.0), conditions=()), "sampling.guidance: 3.0 needs a condition"),
        (lambda: Config(sampling=Sampling(guidance=3.0), conditions=(Label(0.0),)), "is dropped in training"),
        (lambda: Config(stages=(DenoiserTraining(),)), "stages: without an autoencoder stage"),
        (lambda: Config(autoencoder=Pretrained()), "autoencoder.path: it must name a folder"),
        (lambda: SAMPLING_RULE(interval=(0.9, 0.1)), "sampling.rule.interval: .* must be two rising times"),
        (lambda: DenoiserTraining(adapter=Adapter(0)), "adapter: rank .0. must be at least 1"),
        (lambda: AdamW(weight_decay=-1.0), "optimizer.weight_decay: -1.0"),
        (lambda: UNetConfig(num_classes=9, class_rows=9), "num_classes: 9 must be -1, 0 or one less than class_rows"),
        (lambda: Config(data=DataConfig(batch_size=0)), "data.batch_size: 0"),
        (lambda: DenoiserTraining(ema=1.0), "stages.denoiser.ema"),
        (lambda: DenoiserTraining(learning_rate=-1.0), "learning_rate"),
    ],
)
def test_checked_when_built(build, words):
    with pytest.raises(InputError, match=words):
        build()


def test_denoisers_are_fitted_to_what_the_data_decides():
    denoiser = DiTConfig(num_classes=-1).fitted(latent_channels=7, num_classes=12, image_channels=3)
    assert (denoiser.num_classes, denoiser.in_channels, denoiser.out_channels) == (12, 10, 7)
    assert DiTConfig().fitted(latent_channels=7, num_classes=0).num_classes == 0
    with pytest.raises(InputError, match="num_classes: 5 must be"):
        DiTConfig(num_classes=5).fitted(latent_channels=7, num_classes=12)
    with pytest.raises(InputError, match="in_channels: 5 must be"):
        DiTConfig(in_channels=5).fitted(latent_channels=7, num_classes=0)


def test_a_unet_is_fitted_likewise():
    unet = UNetConfig(context_dim=0, num_classes=-1).fitted(latent_channels=7, num_classes=12)
    assert (unet.num_classes, unet.class_rows, unet.in_channels, unet.out_channels) == (12, 13, 7, 7)
    assert unet.time_scale == 1000.0
    assert unet.fitted(latent_channels=7, num_classes=12) == unet
    assert UNetConfig(context_dim=0).fitted(latent_channels=7, num_classes=0).class_rows == 0


OPTIONS = [
    (["seed", "3"], lambda c: c.seed == 3),
    (["data.image-size", "64"], lambda c: c.data.image_size == 64),
    (["denoiser", "unet"], lambda c: isinstance(c.denoiser, UNetConfig)),
    (["autoencoder.multipliers", "1", "2"], lambda c: c.autoencoder.multipliers == (1, 2)),
    (["autoencoder.multipliers", "1,2"], lambda c: c.autoencoder.multipliers == (1, 2)),
    (["stages.denoiser.steps", "7"], lambda c: c.stage(DenoiserTraining).steps == 7),
    (["stages.denoiser.optimizer", "lion"], lambda c: c.stage(DenoiserTraining).optimizer == RULES[1]()),
    (["stages.denoiser.adapter.rank", "4"], lambda c: c.stage(DenoiserTraining).adapter == Adapter(4)),
    (["stages.denoiser.remat", "true"], lambda c: c.stage(DenoiserTraining).remat is True),
    (["conditions.label.dropout", "0.5"], lambda c: c.conditions == (Label(0.5),)),
    (["conditions", "none"], lambda c: c.conditions == ()),
    (["sampling.sampler", "dpmpp_2m"], lambda c: type(c.sampling.sampler).label == "dpmpp_2m"),
    (["process.prediction", "v"], lambda c: c.process.prediction == "v"),
    (["process.weighting", "min_snr"], lambda c: c.process.weighting.gamma == 5.0),
    (["process.times", "log_normal"], lambda c: c.process.times.mean == -1.2),
]


@pytest.mark.parametrize(("words", "right"), OPTIONS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_any_field_is_an_option(words, right):
    config = Config(denoiser=Pretrained("x")) if "adapter" in words[0] else Config()
    assert right(with_options(config, [(words[0], words[1:])]))


def test_a_kind_is_changed_before_its_fields_and_keeps_what_both_have():
    given = [("denoiser.channels", ["32", "64"]), ("denoiser.attention", ["0", "1"]), ("denoiser.heads", ["1", "2"])]
    config = with_options(Config(denoiser=DiTConfig(remat=True)), [*given, ("denoiser", ["unet"])])
    assert config.denoiser.channels == (32, 64)
    assert config.denoiser.remat


def test_shrink_keeps_the_experiments_shape():
    small = shrink(Config(denoiser=DiTConfig(num_classes=-1, rope=True), data=DataConfig(image_size=256)))
    assert small.denoiser.rope
    assert small.autoencoder.factor == Config().autoencoder.factor
    assert small.data.image_size < 256
    assert small.stage(DenoiserTraining).steps <= 24
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


def test_names_that_cannot_be_printed_are_quoted():
    with pytest.raises(InputError, match=r"^'\\n': unknown field; accepted: data"):
        Config.from_json('{"\\n": null}')
