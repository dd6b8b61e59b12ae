import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.data import open_source
from ldm_jax.data.arrays import BUNDLED
from ldm_jax.data.bundled import make_fashion_mnist
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
    files = list(BUNDLED.glob("*.png"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 6_000_000
    licence = (BUNDLED / "LICENSE-fashion-mnist").read_text("utf-8")
    assert "2017 Zalando SE" in licence
    assert "MIT" in licence


def test_bundled_opens_fast():
    from ldm_jax.data.arrays import _fashion_mnist

    _fashion_mnist.cache_clear()
    start = time.process_time()
    open_source("bundled:fashion_mnist")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("split", ["train", "test"])
def test_bundled_files_are_the_ones_that_the_script_made(split):
    assert hashlib.sha256((BUNDLED / f"fashion_mnist_{split}.png").read_bytes()).hexdigest() == FILES[split]


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


def test_unknown_split_of_bundled():
    with pytest.raises(InputError, match="accepted: train, test"):
        open_source("bundled:fashion_mnist", "validation")


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path / "x.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return f"npz:{path / 'x.npz'}"


IMAGES = np.arange(20 * 3 * 2 * 3, dtype=np.uint32).astype(np.uint8).reshape(20, 3, 2, 3)


def test_npz_with_everything(tmp_path):
    names = np.array([f"n{i}" for i in range(20)])
    spec = save(tmp_path, images=IMAGES, labels=np.arange(20) % 2, captions=names, class_names=np.array(["a", "b"]))
    train, test = open_source(spec, "train"), open_source(spec, "test")
    assert (len(train), len(test)) == (18, 2)
    assert train.class_names == ("a", "b")
    for part in (train, test):
        for i in range(len(part)):
            image, label, caption = part[i]
            number = int(caption[1:])
            assert label == number % 2
            np.testing.assert_array_equal(image, IMAGES[number])


def test_npz_with_grey_images_alone(tmp_path):
    source = open_source(save(tmp_path, images=IMAGES[..., 0]))
    assert source[0].image.shape == (3, 2, 1)
    assert source[0][1:] == (-1, "")
    assert source.class_names == ()


def test_npz_labels_without_names_are_named_by_number(tmp_path):
    assert open_source(save(tmp_path, images=IMAGES, labels=np.arange(20) % 3)).class_names == ("0", "1", "2")
    assert open_source(save(tmp_path, images=IMAGES, labels=np.full(20, -1))).class_names == ()


@pytest.mark.parametrize(
    "arrays",
    [
        {"pictures": IMAGES},
        {"images": IMAGES.astype(np.float32)},
        {"images": IMAGES[0, 0]},
        {"images": IMAGES[..., :2]},
        {"images": IMAGES[:0]},
        {"images": IMAGES, "labels": np.arange(19)},
        {"images": IMAGES, "labels": np.arange(20.0)},
        {"images": IMAGES, "labels": np.arange(20) - 2},
        {"images": IMAGES, "captions": np.array(["x"])},
        {"images": IMAGES, "captions": np.arange(20)},
        {"images": IMAGES, "labels": np.arange(20), "class_names": np.array(["x"])},
        {"images": IMAGES, "captions": np.array([{}] * 20, dtype=object)},
    ],
    ids=lambda arrays: "-".join(f"{name}{list(array.shape)}{array.dtype}" for name, array in arrays.items()),
)
def test_bad_npz_is_one_line(tmp_path, arrays):
    with pytest.raises(InputError, match=r"data\.source: npz:") as error:
        open_source(save(tmp_path, **arrays))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short", b"\x80\x04N."])
def test_files_that_are_no_npz(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        open_source(f"npz:{tmp_path / 'x.npz'}")
    with pytest.raises(InputError, match="no such file"):
        open_source(f"npz:{tmp_path / 'y.npz'}")


def test_an_npy_is_no_npz(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    with pytest.raises(InputError, match=r"accepted|cannot be read"):
        open_source(f"npz:{tmp_path / 'x.npy'}")
