"""train.py as a user types it, in this process; tests/test_processes.py starts real ones."""

import json
import shutil

import pytest

from ldm_jax.cli import run
from ldm_jax.migration import renewed_options
from tests.conftest import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart.py")


@pytest.fixture
def config_file(tiny_config, tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(tiny_config.to_json())
    return str(path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "config: name a file"),
        (["nowhere.py"], "nowhere.py is not a file"),
        ([QUICKSTART, "--data.image-sise", "32"], "--data.image-sise"),
        ([QUICKSTART, "--data.image-sise", "32"], "perhaps --data.image-size?"),
        ([QUICKSTART, "--data.image-size", "big"], "--data.image-size: 'big' must be a whole number"),
        ([QUICKSTART, "--sampling.sampler", "eulr"], "--sampling.sampler: 'eulr' must be one of"),
        ([QUICKSTART, "--sampling.guidance", "nan"], "sampling.guidance: nan"),
        ([QUICKSTART, "--conditions.label.dropout", "0"], "sampling.guidance: 3.0 needs a condition"),
        ([QUICKSTART, "--adapter.rank", "4"], "needs a pretrained denoiser"),
        ([QUICKSTART, "--data.image-size", "33"], "data.image_size: 33 must be a multiple of"),
        ([QUICKSTART, "--data.batch-size", "60"], "data.batch_size: 60 must be a multiple of 8"),
        ([QUICKSTART, "--data.source", "folder:/nowhere/at/all"], "/nowhere/at/all"),
        ([QUICKSTART, "--data.source", "bundled:cats"], "bundled"),
        ([QUICKSTART, "--data.source", "cats"], "cats"),
        ([QUICKSTART, "--parallel", "threads"], "pmap"),
        ([QUICKSTART, "--stage", "decoder"], "stage"),
        ([QUICKSTART, "--denoiser.num-classes", "3"], "num_classes"),
        ([QUICKSTART, "--denoiser-training.learning-rate"], "learning-rate"),
        ([QUICKSTART, "--stage", "denoiser"], "train --stage autoencoder"),
    ],
)
def test_train_says_what_is_wrong_in_one_line(args, words, tmp_path, capfd):
    workdir = tmp_path / "run"
    assert run("train", [*args, "--workdir", str(workdir)]) == 2
    out, err = capfd.readouterr()
    assert words in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (workdir / "autoencoder").exists()


@pytest.mark.parametrize("place", ["file/below", "/proc/nowhere"])
def test_a_workdir_that_cant_be_written(place, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert run("train", [QUICKSTART, "--workdir", str(tmp_path / place)]) == 2
    _, err = capfd.readouterr()
    assert "workdir" in err
    assert "can't be written" in err
    assert err.count("\n") == 1


def test_a_run_folder_that_holds_another_config(trained, config_file, tmp_path, capfd):
    copy = shutil.copytree(trained, tmp_path / "copy")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert run("train", [config_file, "--workdir", str(copy), "--denoiser.width", "64"]) == 2
    _, err = capfd.readouterr()
    assert "denoiser.width: 64" in err
    assert "started with 32" in err
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_what_may_change_may_change(trained, config_file, tmp_path, caplog):
    copy = shutil.copytree(trained, tmp_path / "copy")
    args = ["--workdir", str(copy), "--denoiser-training.steps", "9", "--sampling.guidance", "3.0"]
    assert run("train", [config_file, *args]) == 0
    assert "denoiser: resuming at step 8 of 9" in caplog.text
    steps = [json.loads(x)["step"] for x in (copy / "metrics.jsonl").read_text().splitlines() if "denoiser" in x]
    assert steps == list(range(1, 10))


def test_a_finished_run_is_left_alone(trained, config_file, capfd):
    before = (trained / "model" / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert run("train", [config_file, "--workdir", str(trained)]) == 0
    assert "samples:" in capfd.readouterr().out
    assert (trained / "model" / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_help_documents_every_field(capfd):
    with pytest.raises(SystemExit) as end:
        run("train", [QUICKSTART, "--help"])
    assert end.value.code == 0
    text = capfd.readouterr().out
    for option in ("--workdir", "--stage", "--smoke", "--data.source", "--denoiser.width", "--seed", "--parallel"):
        assert option in text
    assert "Mirror half of the images" in text


def test_help_of_one_section(capfd):
    with pytest.raises(SystemExit):
        run("train", [QUICKSTART, "--help", "sampling"])
    text = capfd.readouterr().out
    assert "--sampling.steps 25" in text
    assert "dpmpp_2m" in text
    assert "--data.source" not in text
    assert run("train", [QUICKSTART, "--help", "nothing"]) == 2
    assert "help: 'nothing' must be one of" in capfd.readouterr().err


def test_the_options_of_the_last_version_are_understood(trained, config_file, tmp_path, capfd):
    """Old flags and old config.json, field by field, in one table: ldm_jax/migration.py."""
    given = [
        ("denoiser-training.steps", ["9"]),
        ("autoencoder-loss.kl-weight", ["1"]),
        ("diffusion.label-dropout", ["0.2"]),
    ]
    given += [("autoencoder-from", ["x"]), ("autoencoder-training.beta1", ["0.5"]), ("sampling.guidance", ["1"])]
    new = [name.replace("-", "_") for name, _ in renewed_options(given)]
    assert new == [
        "stages.denoiser.steps",
        "stages.autoencoder.loss.kl_weight",
        "conditions.label.dropout",
        "autoencoder",
        "autoencoder.path",
        "stages.autoencoder.optimizer.beta1",
        "sampling.guidance",
    ]


def test_a_stage_that_lacks_the_one_before_leaves_nothing(trained, tmp_path, capfd):
    quickstart, vae = str(ROOT / "configs" / "quickstart.py"), str(trained / "model" / "vae")
    for more, words in ((), ""), (("--autoencoder-from", vae), f", or leave {vae} as it is by --autoencoder-trains n"):
        args = [quickstart, "--smoke", "--stage", "denoiser", "--workdir", str(tmp_path / "run"), *more]
        assert run("train", args) == 2
        err = capfd.readouterr().err
        assert "stage: denoiser needs" in err and words in err and err.count("\n") == 1
        assert not (tmp_path / "run").exists()
