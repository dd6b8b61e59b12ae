"""ldm-jax finetune: what it chooses, and what it refuses."""

import json
import shutil

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.cli import run
from ldm_jax.cli.finetune import default_config
from ldm_jax.config import Config
from ldm_jax.pipeline.sizes import image_size_of
from tests.pipeline import pipelines


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npz"
    images = np.random.default_rng(0).integers(0, 255, (20, 20, 20, 1), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array([3, 12] * 10))
    return f"npz:{path}"


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "dit", "ldm"])
def test_image_sizes_of_pipelines(name, tmp_path):
    assert image_size_of(pipelines.write(name, tmp_path / name)) == ldm_jax.load(tmp_path / name).image_size


def test_a_model_trained_on_and_resumed_without_it(trained, data, tmp_path, capsys):
    source = shutil.copytree(trained, tmp_path / "bags")
    args = [str(source), "--data", data, "--workdir", str(tmp_path / "run"), "--data.batch-size", "8"]
    assert run("finetune", [*args, "--steps", "2"]) == 0, capsys.readouterr().err
    assert f"model: {tmp_path / 'run' / 'model'}" in capsys.readouterr().out
    model = ldm_jax.load(tmp_path / "run")
    assert model.class_names == (*ldm_jax.load(trained).class_names, "12")
    config = Config.from_json((tmp_path / "run" / "config.json").read_text())
    (stage,) = config.stages
    assert (config.data.image_size, stage.steps, stage.learning_rate) == (32, 2, 1e-5)
    shutil.rmtree(source)
    assert run("finetune", [*args, "--steps", "3"]) == 0, capsys.readouterr().err
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 3


@pytest.mark.parametrize(("kind", "rate"), [("adapter", 1e-4), ("embedding", 5e-3), ("whole", 1e-5)])
def test_rates(kind, rate, trained, tmp_path):
    config = default_config(trained, "bundled:emoji", 7, kind, tmp_path)
    assert (config.stages[0].learning_rate, config.stages[0].steps) == (rate, 7)
    assert Config.from_json(config.to_json()) == config


def test_adapters_are_another_kind(trained, tmp_path, capsys):
    known = ["--data", "bundled:fashion_mnist", "--data.limit", "32", "--adapter.rank", "2"]
    args = [str(trained), *known, "--steps", "1", "--workdir", str(tmp_path / "run")]
    assert run("finetune", args) == 0, capsys.readouterr().err
    assert f"adapter: {tmp_path / 'run' / 'adapter'}" in capsys.readouterr().out
    config = Config.from_json((tmp_path / "run" / "config.json").read_text())
    assert config.stages[0].learning_rate == 1e-4 and config.stages[0].adapter.rank == 2
    # A network of our own architecture has no published names; its LoRA file has its own, and is merged again.
    model = ldm_jax.load(trained)
    merged = model.load_lora(tmp_path / "run" / "adapter")
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), merged.denoiser_params, model.denoiser_params)
    assert any(jax.tree.leaves(moved)) and not all(jax.tree.leaves(moved))


def test_wrong_input_is_one_line(trained, data, tmp_path, capfd):
    cases = [
        ([str(tmp_path), "--data", data], "has no model_index.json; name a finished run's folder"),
        ([str(trained)], "--data"),
        ([str(trained), "--data", "npz:nowhere.npz"], "nowhere.npz: there is no such file"),
        ([str(trained), "--data", data, "--steps", "0"], "steps: 0 must be at least 1"),
        ([str(trained), "--data", data, "--adapter.rank", "2"], "classes that the denoiser does not know (12)"),
        ([str(trained), "--data", data, "--adapter.rnk", "2"], "Unrecognized option --stages.denoiser.adapter.rnk"),
    ]
    for args, message in cases:
        assert run("finetune", [*args, "--workdir", str(tmp_path / "run")]) == 2
        err = capfd.readouterr().err
        assert message in err.splitlines()[-1], err
        assert not (tmp_path / "run").exists()
