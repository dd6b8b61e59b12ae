import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.data import open_source
from ldm_jax.data.bundled import SETS, emoji, fashion_mnist, make_emoji, make_fashion_mnist
from ldm_jax.data.bundled.fashion_mnist import HERE
from ldm_jax.errors import InputError

# Where Debian's dataset-fashion-mnist package puts them.
DEBIAN = Path(os.environ.get("FASHION_MNIST_DIR", "/usr/share/datasets/fashion-mnist"))


@pytest.mark.parametrize(("split", "per_class"), [("train", 1000), ("test", 200)])
def test_bundled_is_balanced_and_fixed(split, per_class):
    source = open_source("bundled:fashion_mnist", split)
    assert len(source) == 10 * per_class
    assert len(source.class_names) == 10
    assert source.class_names[source[9].label] == "Ankle boot"
    labels = np.array([source[i].label for i in range(len(source))])
    assert (np.bincount(labels) == per_class).all()
    # Any prefix is balanced: who takes the first 50 gets every class.
    assert (np.bincount(labels[:50]) == 5).all()
    images = np.stack([source[i].image for i in range(len(source))])
    assert images.shape == (10 * per_class, 28, 28, 1)
    assert hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest() == PIXELS[split]


PIXELS = {
    "train": "3e577431b5e67123ed79849799cb42ac18d3df918e67f4d0de2c00176fc494c1",
    "test": "313b6f76daf53f1d0046e8faaaaa727c430d840b4e5323e002dd934e965e461d",
}
FILES = {
    "train": "cad76bc7e6bd5b17e31c7a27bd985ea7e00d16f757c6b65e802f88ce703fd3a2",
    "test": "89a594b370efbecbca5022bc268644a1e96f44bf23b3bd9fd91ebd426234bdaa",
}


def test_bundled_is_small_and_licensed():
    files = list(HERE.glob("fashion_mnist*.png"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 6_000_000
    licence = (HERE / "LICENSE-fashion-mnist").read_text("utf-8")
    assert "2017 Zalando SE" in licence
    assert "MIT" in licence


def test_bundled_opens_fast():
    fashion_mnist.open_split.cache_clear()
    start = time.process_time()
    open_source("bundled:fashion_mnist")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("split", ["train", "test"])
def test_bundled_files_are_the_ones_that_the_script_made(split):
    assert hashlib.sha256((HERE / f"fashion_mnist_{split}.png").read_bytes()).hexdigest() == FILES[split]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist (or FASHION_MNIST_DIR)")
def test_script_makes_the_same_bytes_again(tmp_path):
    make_fashion_mnist.main([str(DEBIAN), "--out", str(tmp_path)])
    for split, digest in FILES.items():
        assert hashlib.sha256((tmp_path / f"fashion_mnist_{split}.png").read_bytes()).hexdigest() == digest


def test_script_tiles_by_class_and_its_png_is_read_back(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(40) % 10).astype(np.uint8)
    images = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    sheet = make_fashion_mnist.contact_sheet(np.repeat(images, 30, 0), np.repeat(labels, 30), 100)
    assert sheet.shape == (280, 2800)
    np.testing.assert_array_equal(sheet[28 * 4 : 28 * 5, :28], images[labels == 4][0])
    (tmp_path / "x.png").write_bytes(make_fashion_mnist.encode_png(sheet))
    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), sheet)
    with pytest.raises(ValueError, match="fewer than"):
        make_fashion_mnist.contact_sheet(images, labels, 100)


def test_unknown_sets_and_splits():
    with pytest.raises(InputError, match="accepted: train, test"):
        open_source("bundled:fashion_mnist", "validation")
    with pytest.raises(InputError, match="accepted: bundled:emoji, bundled:fashion_mnist, bundled:shapes"):
        open_source("bundled:mnist")


@pytest.mark.parametrize("name", sorted(SETS))
def test_sets_are_split_named_and_read_only(name):
    train, test = (open_source(f"bundled:{name}", split) for split in ("train", "test"))
    assert 0.05 * len(train) < len(test) < 0.25 * len(train)
    assert train.class_names == test.class_names
    for source in (train, test):
        image, label, captions = source[len(source) - 1][:3]
        assert image.dtype == np.uint8
        assert 0 <= label < len(source.class_names) or (label == -1 and not source.class_names)
        assert all(captions) and (captions or label >= 0)


EMOJI = {
    "train": "0f8624472d16d1563df76268731a61048621b2b387b0ba59d6dbcf7e9a759ac0",
    "test": "26c46a66e945352944cf971b13ab91545d1f8d759bcdd7c2ce377972cb3dd7c0",
}


def test_emoji_are_fixed():
    for split, digest in EMOJI.items():
        source = emoji.open_split(split)
        content = source.images.tobytes() + source.labels.astype(np.uint8).tobytes()
        assert hashlib.sha256(content).hexdigest() == digest
    files = [HERE / name for name in ("emoji.webp", "emoji.json", "LICENSE-fluent-emoji", "LICENSE-emoji-data")]
    assert sum(file.stat().st_size for file in files) < 8_000_000
    assert "Microsoft Corporation" in files[2].read_text("utf-8")


def test_emoji_are_called_what_they_show():
    found = {}
    for split in EMOJI:
        source = emoji.open_split(split)
        for i in range(len(source)):
            example = source[i]
            found[example.caption] = (split, source.class_names[example.label], example)
    # Each picture has a name of its own, and none is that of another one.
    assert len(found) == 1852
    others = [text for _, _, example in found.values() for text in example.captions[1:]]
    assert len(set(others)) == len(others)
    assert not set(others) & set(found)
    assert all(text == text.lower().strip() for text in found)
    assert found["grinning face with smiling eyes"][1] == "Smileys & Emotion"
    assert found["hot beverage"][2].captions == ("hot beverage", "coffee")
    assert found["black cat"][1] == "Animals & Nature"
    # Unicode calls it "heavy black heart".
    image = found["red heart"][2].image
    assert image[32, 32, 0] > 150 > 100 > image[32, 32, 1]
    np.testing.assert_array_equal(image[0, 0], 255)


def test_variants_of_an_emoji_are_in_one_split():
    rows = json.loads((HERE / "emoji.json").read_text("utf-8"))
    sides = {split: {row["concept"] for row in rows if row["split"] == split} for split in EMOJI}
    assert not sides["train"] & sides["test"]
    assert 0.08 < len(sides["test"]) / len({row["concept"] for row in rows}) < 0.12
    concept = {row["captions"][0]: row["concept"] for row in rows}
    assert len({concept[name] for name in ("person golfing", "woman golfing", "man golfing")}) == 1
    assert len({concept[name] for name in ("clock face one o'clock", "clock face nine-thirty")}) == 1
    assert len({concept[name] for name in ("bald man", "woman with red hair", "adult")}) == 1
    assert len({concept[name] for name in ("guardsman", "woman guard", "information desk person")}) == 2
    # No test picture looks like one to train with.
    train, test = (emoji.open_split(split).images.reshape(-1, 64 * 64 * 3).astype(np.float32) for split in EMOJI)
    squared = (train**2).sum(1)[:, None] + (test**2).sum(1) - 2 * train @ test.T
    assert np.sqrt(squared.min() / train.shape[1]) > make_emoji.NEAR


def test_emoji_open_fast():
    emoji.open_split.cache_clear()
    emoji._sheet.cache_clear()
    start = time.process_time()
    open_source("bundled:emoji")
    assert time.process_time() - start < 3


ENTRY = {"short_names": ["x"], "category": "Symbols", "subcategory": "other-symbol"}


@pytest.mark.parametrize(
    ("name", "others", "expected"),
    [
        ("GRINNING FACE", {}, "grinning face"),
        ("BLACK SCISSORS", {}, "scissors"),
        ("BLACK CAT", {"subcategory": "animal-mammal"}, "black cat"),
        ("MAN WITH WHITE CANE", {"subcategory": "person-activity"}, "man with white cane"),
        ("NEGATIVE SQUARED LATIN CAPITAL LETTER A", {}, "letter a button"),
        ("MAN: BALD", {}, "bald man"),
        ("WOMAN: RED HAIR", {}, "woman with red hair"),
        ("CLOCK FACE ONE OCLOCK", {}, "clock face one o'clock"),
    ],
)
def test_names_in_plain_english(name, others, expected):
    assert make_emoji.called("0", {**ENTRY, "name": name, **others}) == expected


def test_concepts_join_code_points_names_and_pixels():
    names = ["WOMAN RUNNING", "RUNNER", "RED BALL", "BLUE BALL", "SUN", "STAR"]
    keys = ["1f3c3-200d-2640", "1f3c3", "1", "2", "3", "4"]
    entries = {key: {**ENTRY, "name": name} for key, name in zip(keys, names, strict=True)}
    levels = np.array([0, 50, 100, 150, 200, 205], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (6, 64, 64, 3))
    groups = make_emoji.concepts(entries, images)
    assert [groups[key] for key in keys] == ["1f3c3", "1f3c3", "1", "1", "3", "3"]
    large = {str(i): "one" for i in range(make_emoji.LARGEST_HELD_OUT + 1)}
    sides = make_emoji.splits({**{str(-i): str(-i) for i in range(1, 500)}, **large})
    assert sides["0"] == "train"
    assert 25 < sum(side == "test" for side in sides.values()) < 75
