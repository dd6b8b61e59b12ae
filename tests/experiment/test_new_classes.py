"""Class models trained on with other classes than they know: the data's classes are the model's by name."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.conditions import LabelCondition
from ldm_jax.conditions.classes import class_places
from ldm_jax.data import Renumbered, open_source
from ldm_jax.experiment import Run
from ldm_jax.models import (
    AutoencoderConfig,
    DiTConfig,
    MMDiTConfig,
    UNetConfig,
    apply,
    make_autoencoder,
    make_denoiser,
)
from ldm_jax.pipeline.extending import with_classes
from tests.experiment.test_finetuning import losses, tensors, train


@pytest.mark.parametrize(
    ("names", "known", "places", "new"),
    [
        (("Bag", "Coat"), ("Coat", "Dress", "Bag"), [2, 0], ()),
        (("hat", "bag", "shoe"), ("Bag", "Coat"), [2, 0, 3], ("hat", "shoe")),
        (("tinca tinca",), ("goldfish, Carassius auratus", "tench, Tinca tinca"), [1], ()),
        (("0", "2"), ("Bag", "Coat", "Hat"), [0, 2], ()),
        (("1", "3"), ("Bag", "Coat", "Hat"), [1, 3], ("3",)),
        (("0", "1"), ("1", "2"), [2, 0], ("0",)),
        (("Hat", "hat"), ("Bag",), [1, 1], ("Hat",)),
    ],
)
def test_classes_are_the_same_by_name(names, known, places, new):
    assert class_places(names, known) == (places, new)


SMALL = {
    "dit": DiTConfig(4, 4, 2, 16, 1, 2, num_classes=3),
    "dit of published files": DiTConfig(4, 4, 2, 16, 2, 2, num_classes=3, block_embedders=True),
    "unet": UNetConfig(4, 4, (8, 8), 1, (0, 0), 0, (1, 1), groups=4, context_dim=0, num_classes=3, class_rows=4),
    "mmdit": MMDiTConfig(4, 4, 2, 16, 1, 2, 8, 0, num_classes=3),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k == "unet" else k for k in SMALL])
def test_a_longer_table_changes_nothing_that_was_there(kind):
    """Old classes and "none" give what they gave; a new one gives something of its own once its row moves."""
    module = make_denoiser(SMALL[kind].fitted(4, 3, context_dim=8 * (kind == "mmdit")))
    z, t, cond = module.example_inputs()
    params = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape) / 4,
        module.init(jax.random.key(0), z, t, cond)["params"],
    )
    label = LabelCondition(("a", "b", "c"), 0.1)
    latents = np.zeros(4), np.ones(4), (8, 8, 3)
    model = ldm_jax.LatentDiffusion(make_autoencoder(AutoencoderConfig()), None, *latents, module, params)
    model = dataclasses.replace(model, conditions=(label,))
    more = with_classes(model, ("d", "e"))
    assert more.class_names == ("a", "b", "c", "d", "e")
    z = jax.random.normal(jax.random.key(1), z.shape)

    def output(model, number):
        told = cond._replace(label=np.array([number], np.int32))
        return np.asarray(apply(model.denoiser, model.denoiser_params, z, t, told))

    for number in range(3):
        np.testing.assert_array_equal(output(more, number), output(model, number))
    np.testing.assert_array_equal(output(more, 5), output(model, 3))
    np.testing.assert_array_equal(output(more, 3), output(more, 4))
    assert not np.array_equal(output(more, 3), output(model, 3))
    shapes = jax.eval_shape(more.denoiser.init, jax.random.key(0), *more.denoiser.example_inputs())["params"]
    assert jax.tree.map(np.shape, more.denoiser_params) == jax.tree.map(np.shape, shapes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, of which the trained model knows one, by its name in other letters."""
    room = tmp_path_factory.mktemp("hats")
    rng = np.random.default_rng(0)
    for name in ("bag", "Hat"):
        (room / name).mkdir()
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)).save(room / name / f"{i}.png")
    return room


def test_a_new_class_and_a_known_one(trained, folder, tmp_path, capsys):
    shape = ("--data.image-size", "32")
    assert train(trained, folder, tmp_path / "run", *shape, steps=6) == 0, capsys.readouterr().err
    model, before = ldm_jax.load(tmp_path / "run"), ldm_jax.load(trained)
    assert model.class_names == (*before.class_names, "Hat")
    assert json.loads((tmp_path / "run" / "model" / "transformer" / "config.json").read_text())["num_classes"] == 11
    rows = np.load(tmp_path / "run" / "conditions" / "label" / "label.npy")
    assert sorted(rows.tolist()) == [before.class_names.index("Bag"), 10]
    table, old = (np.asarray(m.denoiser_params["label"]["embedding"]) for m in (model, before))
    assert table.shape == (12, old.shape[1])
    assert not np.array_equal(table[10], old[:10].mean(axis=0))
    assert model.sample(jax.random.key(0), labels=["hat"], steps=2).shape == (1, 32, 32, 1)
    # Once it is there it is a class like the others.
    assert train(tmp_path / "run", folder, tmp_path / "again", *shape, steps=1) == 0
    assert ldm_jax.load(tmp_path / "again").class_names == model.class_names


@pytest.mark.slow
def test_a_killed_run_resumes(trained, folder, tmp_path, capsys):
    source = shutil.copytree(trained, tmp_path / "source")
    more = ("--data.image-size", "32", "--stages.denoiser.checkpoint-every", "3")
    assert train(source, folder, tmp_path / "whole", *more, steps=6) == 0, capsys.readouterr().err
    assert train(source, folder, tmp_path / "cut", *more, steps=3) == 0
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(source)
    assert train(source, folder, tmp_path / "cut", *more, steps=6) == 0
    whole, cut = (tensors(tmp_path / name / "model") for name in ("whole", "cut"))
    for file, values in whole.items():
        for name, value in values.items():
            np.testing.assert_array_equal(cut[file][name], value, err_msg=name)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_what_cannot_be_taught_is_one_line(trained, folder, tmp_path, capsys):
    cases = [
        (("--adapter.rank", "2"), r"does not know \(Hat\); .* leave out stages.denoiser.adapter"),
        (("--stages.denoiser.trains", "attention"), "leave out stages.denoiser.trains"),
    ]
    for more, message in cases:
        assert train(trained, folder, tmp_path / "run", "--data.image-size", "32", *more) == 2
        err = capsys.readouterr().err
        assert re.search(message, err.splitlines()[-1]), err
        assert not (tmp_path / "run").exists()
    part = trained / "model" / "transformer"
    vae = ("--autoencoder-from", trained, "--autoencoder-trains", "nothing", "--data.image-size", "32")
    assert train(part, folder, tmp_path / "run", *vae) == 2
    assert "has 2 classes, the denoiser 10; name a whole model's folder" in capsys.readouterr().err


def test_some_of_the_classes_by_number(trained, tiny_config, tmp_path):
    """An npz without names has the model's numbers, and the data's own count is not what counts."""
    images = np.zeros((12, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([3, 7, 9] * 4))
    config = dataclasses.replace(
        tiny_config,
        data=dataclasses.replace(tiny_config.data, source=f"npz:{tmp_path / 'x.npz'}", limit=0),
        denoiser=ldm_jax.config.Pretrained(str(trained)),
        stages=tiny_config.stages[1:],
    )
    run = Run(config, tmp_path / "run")
    assert set(run.parts.loader.labels.tolist()) == {3, 7, 9}
    assert run.parts.conditions[0].num_classes == 10


def test_renumbered_examples(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.array([0, 1, -1, 2]))
    source = open_source(f"npz:{tmp_path / 'x.npz'}", "train")
    other = Renumbered(source, [5, -1, 3], ("a",) * 6)
    assert len(other) == len(source)
    for i in range(len(source)):
        expected = {0: 5, 1: -1, 2: 3, -1: -1}[source[i].label]
        assert other[i].label == other.annotation(i)[0] == expected
