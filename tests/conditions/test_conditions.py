"""Every condition that an experiment may name: read, cached, dropped, trained with, asked for, saved. One row each."""

import dataclasses
import json
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.cache import cache_condition, place_of
from ldm_jax.cli import run as cli
from ldm_jax.conditions import (
    CONDITIONS,
    ConditionConfig,
    Given,
    GivenImage,
    SavedCondition,
    Size,
    join,
    stack,
    training_conditioning,
)
from ldm_jax.conditions.edges import Edges
from ldm_jax.conditions.label import Label
from ldm_jax.conditions.layout import Layout
from ldm_jax.conditions.low_resolution import LowResolution
from ldm_jax.conditions.masked_image import MaskedImage
from ldm_jax.conditions.paired_image import PairedImage
from ldm_jax.conditions.text import Text, TrainedEncoder
from ldm_jax.configfile import load_config
from ldm_jax.data import Example, Loader, Objects, open_source
from ldm_jax.data.arrays import ArraySource
from ldm_jax.data.source import Subset
from ldm_jax.errors import InputError
from ldm_jax.experiment import Run
from ldm_jax.models import Conditioning, DiTConfig, MMDiTConfig, UNetConfig
from ldm_jax.serialization import convert, kinds_of, to_tree
from tests.conditions.asking import check_asked
from tests.conftest import ROOT

NAMES = ("red box", "blue box")
GIVEN = Given(
    ("cat", "dog", "owl"), lambda: ["a cat", "a small dog"], (8, 8, 1), (4, 4, 2), pairs=True, object_names=NAMES
)
SIZE = Size((4, 4), 2, 2)
IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)


class Row(NamedTuple):
    """A condition, what a user asks of a model with it, and what the network is then told."""

    config: Any
    asks: dict[str, Any]
    parts: dict[str, tuple[int, ...]]
    """Shapes of what the network is told."""


ROWS = {
    "edges": Row(
        Edges(0.5),
        {"edges": np.zeros((2, 8, 8, 1), np.uint8)},
        {"image": (2, 4, 4, 4)},
    ),
    "label": Row(Label(0.5), {"labels": [2, "dog"]}, {"label": (2,)}),
    "layout": Row(
        Layout(3, 8, 16, True, 0.5),
        {"layout": [[("red box", (0.0, 0.0, 0.5, 1.0))], []]},
        {"context": (2, 4, 8), "context_mask": (2, 4)},
    ),
    "low_resolution": Row(
        LowResolution(2, 0.0, 0.5),
        {"image": np.zeros((2, 4, 4, 1), np.uint8)},
        {"image": (2, 4, 4, 1)},
    ),
    "masked_image": Row(
        MaskedImage(2, 0.5),
        {"image": np.zeros((2, 8, 8, 1), np.uint8), "mask": np.eye(8, dtype=bool)},
        {"image": (2, 4, 4, 8)},
    ),
    "paired_image": Row(
        PairedImage(channels=1, dropout=0.5),
        {"paired": np.zeros((2, 8, 8, 1), np.uint8)},
        {"image": (2, 4, 4, 4)},
    ),
    "text": Row(
        Text(TrainedEncoder(8, 1, 2), 6, 0.5),
        {"prompts": ["a cat", "dog"], "negative": "owl"},
        {"context": (2, 6, 8), "context_mask": (2, 6)},
    ),
}
EACH = pytest.mark.parametrize("name", ROWS)


def test_every_condition_has_a_row():
    assert set(ROWS) == {file for file, _ in CONDITIONS}
    assert {type(row.config) for row in ROWS.values()} == set(kinds_of(ConditionConfig))


def example(label, text):
    """One with everything that a condition may read."""
    return Example(IMAGE, label, (text,), IMAGE[::-1], Objects(np.array([[1.0, 2.0, 5.0, 8.0]]), np.array([label % 2])))


def arrays_of(condition, *examples):
    """What training has of these examples."""
    return condition.embed(stack([condition.read(example)[0] for example in examples]))


OTHER_LAYOUTS = (
    "data/layout.py",
    "data/folder.py",
    "pipeline/layouts.py",
    "pipeline/reading.py",
    "pipeline/writing.py",
    "pretrained/layouts.py",
    "pretrained/names.py",
)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("label", "text")])
def test_a_condition_is_one_file_and_one_line(name):
    """Nothing else in the package knows it by name, as the seam is for; classes are the default of every config.

    Folders of images, published pipelines and tensors have a Layout, too, which is another.
    """
    other = OTHER_LAYOUTS if name == "layout" else ()
    config = type(ROWS[name].config).__name__
    known = {
        str(path.relative_to(ROOT)): len(re.findall(rf"\b{config}\b", path.read_text()))
        for path in (ROOT / "ldm_jax").rglob("*.py")
        if path.relative_to(ROOT / "ldm_jax").as_posix() not in other
    }
    elsewhere = {path: count for path, count in known.items() if count and path != f"ldm_jax/conditions/{name}.py"}
    assert elsewhere == {"ldm_jax/conditions/__init__.py": 1}


@EACH
def test_what_the_network_is_told(name):
    row = ROWS[name]
    condition = row.config.build(GIVEN)
    arrays = arrays_of(condition, *(example(label, text) for label, text in ((0, "a cat"), (2, "a dog"))))
    keys, params = jax.random.split(jax.random.key(0), 2), condition.init(jax.random.key(1))
    for told in (condition.apply(params, arrays, None), jax.jit(condition.apply)(params, arrays, keys)):
        parts = {field: value.shape for field, value in told._asdict().items() if value is not None}
        assert parts == row.parts
    null = condition.null(arrays)
    assert {k: (v.shape, v.dtype) for k, v in null.items()} == {k: (v.shape, v.dtype) for k, v in arrays.items()}
    assert all((v == v[:1]).all() for v in null.values())
    asked = condition.ask(SIZE, **row.asks)
    for field, shape in row.parts.items():
        chex.assert_shape(getattr(condition.apply(params, asked.arrays, None), field), shape)
    assert set(row.asks) <= set(condition.asks)


@EACH
def test_dropped_at_its_own_rate(name):
    condition = ROWS[name].config.build(GIVEN)
    n = 400
    one = condition.read(example(1, "a cat"))[0]
    arrays = {condition.name: {k: np.stack([np.asarray(v)] * n) for k, v in one.items()}}
    keys, params = jax.random.split(jax.random.key(1), n), condition.init(jax.random.key(2))
    part = next(iter(ROWS[name].parts))
    told = getattr(training_conditioning([condition], {condition.name: params}, arrays, keys), part)
    nothing = getattr(condition.apply(params, condition.null(arrays[condition.name]), None), part)
    dropped = np.isclose(told, nothing, atol=1e-5).reshape(n, -1).all(axis=1)
    assert abs(dropped.mean() - 0.5) < 0.1


def test_conditions_are_dropped_independently():
    pair = [ROWS["label"].config.build(GIVEN), LowResolution(2, 0.0, 0.5).build(GIVEN)]
    n = 400
    arrays = {c.name: {k: np.stack([np.asarray(v)] * n) for k, v in c.read(Example(IMAGE, 1))[0].items()} for c in pair}
    told = training_conditioning(pair, {}, arrays, jax.random.split(jax.random.key(1), n))
    gone = [np.asarray(told.label) == 3, np.asarray(told.image).reshape(n, -1).std(axis=1) < 1e-6]
    assert abs((gone[0] & gone[1]).mean() - 0.25) < 0.08


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("layout", "text")])
def test_json_both_ways(name):
    """Of those that have files, test_text.py and test_layout.py show it."""
    condition = ROWS[name].config.build(GIVEN)
    tree = json.loads(json.dumps(to_tree(condition, SavedCondition)))
    assert convert(SavedCondition, tree, "condition") == condition


def loader(flip=True):
    part = Subset.evenly(open_source("bundled:fashion_mnist"), 40)
    images, labels = np.stack([part[i].image for i in range(40)]), np.array([part[i].label for i in range(40)])
    source = ArraySource(images, labels, None, part.class_names, images)
    return Loader(source, batch_size=8, image_size=8, channels=1, seed=3, flip=flip)


@EACH
def test_cached_arrays_are_those_of_the_batch(name, tmp_path):
    data = loader()
    given = GIVEN._replace(class_names=tuple(data.source.class_names), example=data.shape)
    condition = ROWS[name].config.build(given)
    told = cache_condition(tmp_path / name, condition, data, "{}")
    for step in (0, 7):
        wanted = data[step]
        images = np.round((wanted["image"] + 1.0) * 127.5).astype(np.uint8)
        seen = [Example(x, int(y), (), x) for x, y in zip(images, wanted["label"], strict=True)]
        expected = stack([condition.read(example)[0] for example in seen])
        got = told.batch(place_of(40, 8, 3, step))
        chex.assert_trees_all_equal(dict(got), expected)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / name).iterdir()}
    cache_condition(tmp_path / name, condition, data, "{}")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / name).iterdir()} == before
    (tmp_path / name / "rows.npy").write_bytes(b"")
    assert cache_condition(tmp_path / name, condition, data, "{}").rows.shape == (40, 1)


def of_source(config, source):
    """The experiment on other data; its autoencoder is for grey images."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))


def test_an_experiment_with_a_paired_image(tiny_config, tmp_path):
    """Two steps of each stage, saved, loaded and asked; tests/test_configs.py does so with all other conditions."""
    config = dataclasses.replace(tiny_config, conditions=(PairedImage(classes=5, dropout=0.5),)).with_stages(
        autoencoder={"steps": 2, "sample_every": 2}, denoiser={"steps": 2, "sample_every": 2}
    )
    run = Run(of_source(config, labelled(tmp_path)), tmp_path / "run")
    run.train()
    check_asked(run, {"paired": np.zeros((2, 32, 32), np.uint8)}, tmp_path / "copy")


def test_every_condition_is_trained_by_a_config_or_here():
    configs = [load_config(path) for path in (ROOT / "configs").glob("*.py")]
    named = {type(condition) for config in configs for condition in config.conditions}
    assert named | {PairedImage} == {type(row.config) for row in ROWS.values()}


DENOISERS = {
    "dit": DiTConfig(width=32, depth=2, heads=2),
    "mmdit": MMDiTConfig(width=32, depth=2, heads=2),
    "unet": UNetConfig(channels=(16,), heads=(2,), groups=4, blocks=1, attention=(1,)),
}
TOGETHER = {
    "label paired_image": ((Label(0.5), PairedImage(5, dropout=0.5)), {"paired": np.zeros((2, 32, 32), np.uint8)}),
    "edges layout text": (
        (Edges(0.5), Layout(3, 8, 16, True, 0.5), Text(TrainedEncoder(8, 1, 2), 6, 0.5)),
        {"prompts": ["a red star", "a ring"], "layout": [[("red star", (0.0, 0.0, 1.0, 1.0))]], "negative": "a box"},
    ),
}


SLOW = {"marks": pytest.mark.slow}
"""Networks that take a minute to compile; what each condition tells is tested by itself."""


@pytest.mark.parametrize(
    ("names", "network"),
    [
        ("label paired_image", "mmdit"),
        pytest.param("edges layout text", "dit", **SLOW),
        pytest.param("edges layout text", "mmdit", **SLOW),
        pytest.param("label paired_image", "unet", **SLOW),
        pytest.param("edges layout text", "unet", **SLOW),
    ],
)
def test_several_together(names, network, tiny_config, tmp_path):
    """Trained, saved, loaded and asked with every denoiser; one that only reads tokens says so where there are none."""
    conditions, asks = TOGETHER[names]
    config = dataclasses.replace(tiny_config, conditions=conditions, denoiser=DENOISERS[network])
    config = config.with_stages(autoencoder={"steps": 1, "sample_every": 9}, denoiser={"steps": 1, "sample_every": 1})
    config = of_source(config, "bundled:shapes" if "layout" in names else labelled(tmp_path))
    if network == "mmdit" and "layout" not in names:
        with pytest.raises(InputError, match="MMDiT needs a condition that gives tokens"):
            Run(config, tmp_path / "run").train()
        return
    Run(config, tmp_path / "run").train()
    model = ldm_jax.load(tmp_path / "run")
    drawn = [model.sample(jax.random.key(0), num=2, steps=1, guidance=w, **asks) for w in (2.0, 1.0)]
    assert drawn[0].shape[:3] == drawn[1].shape[:3] == (2, 32, 32)
    told = model.tell(2.0, **asks)
    if "layout" in names:
        chex.assert_shape(told.cond.context, (2, 10, 8))
        assert told.cond.context_mask[:, :4].tolist() == [[True, True, False, False]] * 2
        assert told.null.context_mask[0, :4].tolist() == [True, False, False, False]
    assert not np.asarray(told.null.image).any()
    if network == "dit":
        from_the_command_line(tmp_path)


def from_the_command_line(folder):
    """A picture of the run in `folder` told edges, boxes and texts by files, and drawn once more from what it tells."""
    files = {name: str(folder / name) for name in ("run", "x.png", "boxes.json", "out.png", "again.png")}
    Image.new("RGB", (40, 32), "red").save(files["x.png"])
    (folder / "boxes.json").write_text('[[["red star", [0, 0, 1, 1]]], [["blue ring", [0, 0, 0.5, 0.5]]]]')
    asked = [files["run"], "--steps", "1", "--prompt", "a star", "--edges-of", files["x.png"]]
    assert cli("sample", [*asked, "--layout", files["boxes.json"], "--out", files["out.png"]]) == 0
    assert cli("sample", ["--again", files["out.png"], "--out", files["again.png"]]) == 0
    with Image.open(files["out.png"]) as one, Image.open(files["again.png"]) as other:
        assert one.size == (64, 32)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    (folder / "boxes.json").write_text('[[["red stare", [0, 0, 1, 1]]]]')
    assert cli("sample", [*asked, "--layout", files["boxes.json"], "--out", str(folder / "none.png")]) == 2
    assert cli("sample", [*asked, "--paired", files["x.png"], "--out", str(folder / "none.png")]) == 2
    assert not (folder / "none.png").exists()


def labelled(folder):
    """A source of 64 images with classes and maps of five classes."""
    images = np.random.default_rng(0).integers(0, 255, (64, 32, 32, 1), np.uint8)
    np.savez(folder / "labelled.npz", images=images, labels=np.arange(64) % 4, paired=images // 52)
    return f"npz:{folder / 'labelled.npz'}"


def test_tokens_with_and_without_a_mask_are_masked_together():
    tokens = [jnp.full((n, length, 3), float(n)) for n, length in ((2, 2), (1, 1))]
    told = join(
        [
            Conditioning(context=tokens[0], context_mask=jnp.asarray([[True, False]] * 2)),
            Conditioning(context=tokens[1]),
        ]
    )
    assert told.context[..., 0].tolist() == [[2.0, 2.0, 1.0]] * 2
    assert told.context_mask.tolist() == [[True, False, True]] * 2
    with pytest.raises(InputError, match="tokens of 3 and 4 features can't be joined"):
        join([Conditioning(context=tokens[0]), Conditioning(context=jnp.zeros((2, 1, 4)))])


def test_two_that_say_the_same_are_refused():
    with pytest.raises(InputError, match="conditions: two of them give label"):
        join([Conditioning(label=jnp.zeros(1, jnp.int32))] * 2)
    images = [Conditioning(image=jnp.zeros((1, 4, 4, c))) for c in (1, 2)]
    chex.assert_shape(join(images).image, (1, 4, 4, 3))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "image: this model enlarges images"),
        (np.zeros((1, 8, 8, 1), np.uint8), r"image: \[1, 8, 8, 1\] must be \[n 4 4 1\]"),
        (np.full((1, 4, 4, 1), 9.0, np.float32), r"must be uint8, or floats in \[-1, 1\]"),
    ],
)
def test_a_small_image_that_is_none(image, message):
    with pytest.raises(InputError, match=message):
        LowResolution(2).build(GIVEN).ask(SIZE, image=image)


def test_a_factor_that_does_not_divide():
    with pytest.raises(InputError, match="factor: 3 must divide"):
        LowResolution(3).build(GIVEN)


def test_images_that_a_user_gives_go_through_one_border():
    """uint8 of 0..255 is not taken for floats of 0..255, whoever reads it."""
    grey = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3) * 5
    want = grey / np.float32(127.5) - 1.0
    given = GivenImage(3)
    np.testing.assert_allclose(given.ask(SIZE, image=grey).arrays["image"], want)
    np.testing.assert_allclose(given.ask(SIZE, image=jnp.asarray(want)).arrays["image"], want)
    for wrong in (grey.astype(np.float32), grey.astype(np.int32), np.full_like(want, np.nan), want[:0]):
        with pytest.raises(InputError, match="image: "):
            given.ask(SIZE, image=wrong)
    # A mask and latents have no range, but are finite.
    latents = np.full((1, 4, 4, 5), 3.0, np.float32)
    np.testing.assert_array_equal(GivenImage(5).ask(SIZE, image=latents).arrays["image"], latents)
    for wrong in (latents * np.inf, latents.astype(np.uint8)):
        with pytest.raises(InputError, match="must be finite floats"):
            GivenImage(5).ask(SIZE, image=wrong)
