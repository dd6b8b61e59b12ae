"""Prior preservation in whole runs: class models and pipelines, whole and by adapters."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.cli import run
from ldm_jax.config import Config
from tests.experiment.test_finetuning import folders, losses, pictures, tensors, train  # noqa: F401


@pytest.fixture(scope="module")
def tenth(tmp_path_factory):
    """A class that the trained model does not know."""
    room = tmp_path_factory.mktemp("tenth")
    rng = np.random.default_rng(0)
    (room / "Hat").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)).save(room / "Hat" / f"{i}.png")
    return room


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    """What the trained model draws of its own ten classes."""
    path = tmp_path_factory.mktemp("drawn") / "x.npz"
    assert run("augment", [str(trained), "--per-class", "3", "--steps", "2", "--out", str(path)]) == 0
    return path


def test_a_new_class_beside_the_old_ones_killed_and_resumed(trained, tenth, drawn, tmp_path, capsys):
    more = ("--data.image-size", "32", "--prior.source", f"npz:{drawn}", "--stages.denoiser.checkpoint-every", "3")
    assert train(trained, tenth, tmp_path / "whole", *more, steps=6) == 0, capsys.readouterr().err
    model = ldm_jax.load(tmp_path / "whole")
    assert model.class_names == (*ldm_jax.load(trained).class_names, "Hat")
    own, prior = (
        set(np.load(tmp_path / "whole" / where / "conditions" / "label" / "label.npy").tolist())
        for where in ("", "prior")
    )
    assert own == {10} and prior <= set(range(10))
    assert train(trained, tenth, tmp_path / "cut", *more, steps=3) == 0
    shutil.rmtree(tmp_path / "cut" / "model")
    assert train(trained, tenth, tmp_path / "cut", *more, steps=6) == 0
    whole, cut = (tensors(tmp_path / name / "model") for name in ("whole", "cut"))
    for file, values in whole.items():
        for name, value in values.items():
            np.testing.assert_array_equal(cut[file][name], value, err_msg=name)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    saved = Config.from_json((tmp_path / "whole" / "config.json").read_text())
    assert saved.stages[0].prior.source == f"npz:{drawn}"
    # The second source is part of the experiment.
    capsys.readouterr()
    assert train(trained, tenth, tmp_path / "cut", *more, "--prior.weight", "0.5", steps=6) == 2
    assert "prior.weight: 0.5 but" in capsys.readouterr().err


@pytest.mark.slow
def test_adapters_of_a_pipeline(folders, pictures, tmp_path, capsys):  # noqa: F811
    """Captions of both sources; the second is what sample.py leaves."""
    other = tmp_path / "drawn"
    args = ["--prompt", "a dog", "--num", "12", "--steps", "1", "--height", "16", "--width", "16"]
    assert run("sample", [str(folders["sd15"]), *args, "--out", str(other)]) == 0, capsys.readouterr().err
    more = ("--adapter.rank", "4", "--prior.source", f"folder:{other}", "--prior.share", "0.25")
    assert train(folders["sd15"], pictures, tmp_path / "run", *more, steps=4) == 0, capsys.readouterr().err
    assert len(losses(tmp_path / "run")) == 4
    assert (tmp_path / "run" / "adapter" / "pytorch_lora_weights.safetensors").is_file()


def test_what_can_be_no_prior_is_one_line(trained, tenth, drawn, tmp_path, capsys):
    signals = tmp_path / "plain.npz"
    np.savez(signals, images=np.zeros((4, 32, 32, 1), np.uint8))
    cases = [
        (f"npz:{signals}", (), "plain.npz has no classes, which this denoiser is told"),
        (f"folder:{tmp_path / 'nothing'}", (), "nothing"),
        (f"npz:{drawn}", ("--prior.share", "1"), "prior.share: 1.0 must be between 0 and 1"),
        (f"npz:{drawn}", ("--prior.share", "0.01"), "must leave at least one example of each source"),
    ]
    for source, more, message in cases:
        args = ("--data.image-size", "32", "--prior.source", source, *more)
        assert train(trained, tenth, tmp_path / "run", *args) == 2
        err = capsys.readouterr().err
        assert re.search(message, err.splitlines()[-1]), err
        assert not (tmp_path / "run").exists()
    tree = json.loads(Config().to_json())
    tree["stages"][1]["prior"] = {"source": "npz:x.npz"}
    with pytest.raises(ldm_jax.errors.InputError, match="prior: it needs a pretrained denoiser"):
        Config.from_json(json.dumps(tree))
