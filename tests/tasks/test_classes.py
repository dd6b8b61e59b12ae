"""Classification by the denoiser's errors, and labelled sets of drawn images."""

import json

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.cli import main
from ldm_jax.data import open_source
from ldm_jax.data.npz import open_npz
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning
from ldm_jax.tasks.classify import Rounds, classify, times


def test_times_fill_the_unit_interval_whatever_the_rounds():
    whole = times(32)
    np.testing.assert_allclose(np.concatenate([times(8), times(24, 8)]), whole)
    counts = np.histogram(whole, 8, (0.0, 1.0))[0]
    assert counts.min() >= 3 and counts.max() <= 5 and whole.min() > 0.0 and whole.max() < 1.0


def test_the_class_of_least_error_wins_and_the_rest_is_pruned():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 40)
    asked = []

    def errors(alive, at, begin):
        asked.append((alive.shape, len(at), begin))
        wrong = alive != truth[:, None]
        # The noise is the same for all classes, as it is for a denoiser.
        return len(at) * (1.0 + 0.1 * wrong + rng.normal(size=(40, 1)))

    said = classify(errors, 40, 10, Rounds((2, 3, 4), (5, 2)))
    np.testing.assert_array_equal(said.labels, truth)
    assert asked == [((40, 10), 2, 0), ((40, 5), 3, 2), ((40, 2), 4, 5)]
    assert said.evaluations == 2 * 10 + 3 * 5 + 4 * 2
    assert said.errors.shape == (40, 10)


def test_a_model_says_the_same_in_any_batches(trained):
    model = ldm_jax.load(trained)
    images = np.stack(
        [np.pad(open_source("bundled:fashion_mnist")[i].image, ((2, 2), (2, 2), (0, 0))) for i in range(6)]
    )
    whole = model.classify(images, rounds=Rounds((2,), ()))
    parts = model.classify(images, rounds=Rounds((2,), ()), batch_size=7)
    np.testing.assert_allclose(whole.errors, parts.errors, rtol=1e-4)
    np.testing.assert_array_equal(whole.labels, whole.errors.argmin(axis=1))
    assert model.classify(images, rounds=Rounds((2, 2), (3,))).evaluations == 26
    # Of eps, 1.4 (1 - t) for an untrained flow of normalised latents, at t = 0.5 and 0.25.
    assert 0.6 < whole.errors.mean() < 1.2


def test_a_balanced_set_of_the_best(trained):
    model = ldm_jax.load(trained)
    key = jax.random.key(0)
    plain = model.augment(key, 2, steps=2)
    assert plain.images.shape == (20, 32, 32, 1) and plain.labels.tolist() == [*range(10)] * 2
    kept = model.augment(key, 1, keep=0.5, steps=2)
    assert kept.labels.tolist() == list(range(10))
    for image, label in zip(kept.images, kept.labels, strict=True):
        assert any((image == other).all() for other in plain.images[plain.labels == label])


def test_a_set_drawn_anew_from_labelled_images(trained):
    model, key = ldm_jax.load(trained), jax.random.key(0)
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 1), np.uint8)
    labels = np.array([*range(10), 0, 0])
    found = model.augment(key, 4, images=images, labels=labels, strength=0, steps=2)
    assert found.labels.tolist() == [*range(10)] * 4
    rebuilt = model.edit(key, images, 0)
    # Class 0 has three images, which are taken in turn; the others have one.
    np.testing.assert_array_equal(found.images[::10], rebuilt[[0, 10, 11, 0]])
    np.testing.assert_array_equal(found.images[5::10], rebuilt[[5] * 4])
    moved = model.augment(key, 1, images=images, labels=labels, strength=0.5, steps=4)
    wanted = model.edit(key, images[:10], 0.5, labels=list(range(10)), steps=4)
    np.testing.assert_array_equal(moved.images, wanted)
    for wrong, message in (
        ({"images": images}, "images, labels: give both"),
        ({"images": images, "labels": labels[:5]}, r"labels: int64 \[5\] must be a whole number for each of images"),
        ({"images": images, "labels": labels + 1}, "labels: class 0 has no image"),
        ({"images": images, "labels": labels, "strength": 2}, "strength: 2 must be"),
    ):
        with pytest.raises(InputError, match=message):
            model.augment(key, 1, **wrong)


def test_the_commands(trained, tmp_path, capsys):
    out = tmp_path / "set.npz"
    assert main(["augment", str(trained), "--per-class", "3", "--steps", "2", "--out", str(out)]) == 0
    source = open_npz(str(out))
    assert len(source) == 30 and source[3].label == 3
    anew = ["--images", f"npz:{out}", "--strength", "0.5", "--per-class", "1", "--steps", "2"]
    assert main(["augment", str(trained), *anew, "--out", str(tmp_path / "anew.npz")]) == 0
    assert len(open_npz(str(tmp_path / "anew.npz"))) == 10
    report = tmp_path / "said.json"
    options = ["--num", "4", "--samples", "2", "--kept", "--out", str(report)]
    assert main(["classify", str(trained), "--data", "bundled:fashion_mnist", *options]) == 0
    assert json.loads(report.read_text())["evaluations_per_image"] == 20
    capsys.readouterr()
    assert main(["classify", str(trained), "--data", "bundled:emoji"]) == 2
    assert "classes of bundled:emoji must be the model's own" in capsys.readouterr().err


def test_numbers_out_of_range_and_options_without_a_use_are_refused_before_the_model_is_read(tmp_path, capsys):
    nowhere, out = str(tmp_path / "no-model"), ["--out", str(tmp_path / "x.npz")]
    for args, line in (
        (["augment", nowhere, "--per-class", "0", *out], "per_class: 0 must be at least 1"),
        (["augment", nowhere, "--per-class", "1", "--keep", "1.5", *out], "keep: 1.5 must be above 0 and at most 1"),
        (["augment", nowhere, "--per-class", "1", "--keep", "nan", *out], "keep: nan must be a finite number"),
        (["augment", nowhere, "--per-class", "1", "--guidance", "inf", *out], "guidance: inf must be a finite number"),
        (["augment", nowhere, "--per-class", "1", "--strength", "0.5", *out], "strength: 0.5 can't be used"),
        (["augment", nowhere, "--per-class", "1", "--strength", "2", *out], "strength: 2.0 must be at most 1"),
        (["augment", nowhere, "--per-class", "1", "--seed", str(2**64), *out], f"seed: {2**64} must be at most"),
        (["classify", nowhere, "--image", "x.png", "--num", "3"], "num: 3 can't be used, it is for --data"),
        (["classify", nowhere, "--image", "x.png", "--samples", "4", "0"], "samples: 0 must be at least 1"),
        (["classify", nowhere, "--image", "x.png", "--batch-size", "-1"], "batch_size: -1 must be at least 1"),
        (["batch", nowhere, "--step", "0"], "step: 0 must be at least 1"),
        (["finetune", nowhere, "--data", "x", "--steps", "0"], "steps: 0 must be at least 1"),
    ):
        assert main(args) == 2
        out_, err = capsys.readouterr()
        assert line in err and err.count("\n") == 1 and not out_, args
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rounds((), ()), "rounds: "),
        (lambda: Rounds((1, 1), (2, 1)), "one more than kept"),
        (lambda: Rounds((1, 1, 1), (2, 3)), "must fall"),
    ],
)
def test_rounds_that_are_none(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_wrong_input_is_one_line(trained):
    model = ldm_jax.load(trained)
    with pytest.raises(InputError, match="per_class: 0"):
        model.augment(jax.random.key(0), 0)
    with pytest.raises(InputError, match="keep: 2"):
        model.augment(jax.random.key(0), 1, keep=2)


def test_features_of_a_block_for_a_probe(trained):
    model = ldm_jax.load(trained)
    source = open_source("bundled:fashion_mnist")
    images = np.stack([np.pad(source[i].image, ((2, 2), (2, 2), (0, 0))) for i in range(5)])
    whole = model.features(images)
    assert whole.shape == (5, model.denoiser.config.width) and whole.dtype == np.float32
    np.testing.assert_allclose(model.features(images, batch_size=2), whole, rtol=1e-4, atol=1e-5)
    z = jax.numpy.asarray(model.encode(images))
    label = jax.numpy.full(1, model.num_classes, jax.numpy.int32)
    told = model.features(images, time=0.0, labels=["Bag"])
    none = model.features(images, time=0.0)
    assert np.abs(told - none).max() > 1e-4
    process = model.process
    t = jax.numpy.zeros(len(z))
    _, kept = model.denoiser.apply(
        {"params": model.denoiser_params},
        process.network_input(z, t),
        process.network_time(t),
        Conditioning(label=label),
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    depth = model.denoiser.config.depth
    (own,) = kept["intermediates"][f"block{depth // 2}"]["__call__"]
    np.testing.assert_allclose(none, np.asarray(own).mean(axis=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"layer: 'block99' must be one of block0"):
        model.features(images, layer="block99")
    with pytest.raises(InputError, match="time: 2 must be between 0 and 1"):
        model.features(images, time=2)
