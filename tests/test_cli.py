"""The commands as a user types them, in this process; tests/test_processes.py starts real ones."""

import json
import shutil

import chex
import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli import main, run
from ldm_jax.pretrained import load_part
from tests.conftest import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart.py")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


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
    assert "begun with 32" in err
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


def test_main_dispatches(capfd):
    assert main(["--help"]) == 0
    assert "train" in capfd.readouterr().out
    assert main(["fly"]) == 2
    assert "'fly' must be one of train" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--label", "10"], "label: 10 must be between 0 and 9"),
        (["--labels", "0", "-1"], "label: -1"),
        (["--label", "x"], "--label"),
        (["--label", "1", "--labels", "1"], "not allowed"),
        (["--prompt", "a shoe"], "no text encoder"),
        (["--sampler", "magic"], "sampler: 'magic' must be one of"),
        (["--steps", "0"], "steps: 0"),
        (["--num", "0"], "num: 0"),
        (["--batch-size", "0"], "batch_size: 0"),
        (["--out", "x.jpg"], "out: x.jpg must end in"),
        (["--seeds", "1"], "--seeds"),
    ],
)
def test_sample_says_what_is_wrong_in_one_line(args, words, trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run("sample", [str(trained), *args]) == 2
    out, err = capfd.readouterr()
    assert words in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_sample_needs_a_model(tmp_path, capfd):
    assert run("sample", [str(tmp_path)]) == 2
    assert "has no model_index.json" in capfd.readouterr().err


def test_sample_writes_png_npz_and_folder(trained, tmp_path, capfd):
    common = [str(trained), "--num", "6", "--steps", "2", "--seed", "5"]
    assert run("sample", [*common, "--labels", "3", "7", "--out", str(tmp_path / "a.npz")]) == 0
    with np.load(tmp_path / "a.npz") as data:
        images, labels = data["arr_0"], data["label"]
    assert images.shape == (6, 32, 32, 1)
    assert images.dtype == np.uint8
    assert sorted(labels) == [3, 3, 3, 7, 7, 7]
    assert run("sample", [*common, "--labels", "3", "7", "--out", str(tmp_path / "grid" / "a.png")]) == 0
    grid = pixels(tmp_path / "grid" / "a.png")
    assert grid.shape == (96, 64)
    np.testing.assert_array_equal(grid[:32, 32:64], images[1, ..., 0])
    assert run("sample", [*common, "--label", "3", "--out", str(tmp_path / "many")]) == 0
    files = sorted((tmp_path / "many").iterdir())
    assert [f.name for f in files] == [f"{i:06d}.png" for i in range(6)]
    np.testing.assert_array_equal(pixels(files[0]), images[0, ..., 0])


def test_convert_reads_a_trained_part_and_tells_every_tensor(trained, tmp_path, capfd):
    assert run("convert", [str(trained / "model" / "transformer"), str(tmp_path / "out")]) == 0
    out = capfd.readouterr().out
    assert "0 left over, 0 missing" in out
    module, params = load_part(tmp_path / "out")
    again, same = load_part(trained / "model" / "transformer")
    assert module == again
    chex.assert_trees_all_equal(params, same)
    assert run("convert", [str(trained / "model" / "transformer"), str(tmp_path / "out")]) == 2
    assert "name a folder that is new or empty" in capfd.readouterr().err
    assert run("convert", [str(tmp_path / "nothing"), str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "panel",
    [
        "╭─ Value error ─╮\n│ bad thing   │\n│ happened │\n│ ─────── │\n│ Argument helptext: │\n╰──╯\n",
        " Value error \n ------- \n  bad thing  \n happened \n ------- \n For full helptext \n",
    ],
)
def test_a_panel_becomes_one_line(panel):
    assert one_line(panel) == "bad thing happened"
