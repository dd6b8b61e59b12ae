from pathlib import Path

import numpy as np
import pytest

from ldm_jax.data import open_source
from ldm_jax.errors import InputError


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
            example = part[i]
            number = int(example.caption[1:])
            assert example.label == number % 2
            assert example.captions == (example.caption,)
            np.testing.assert_array_equal(example.image, IMAGES[number])


def test_npz_with_grey_images_alone(tmp_path):
    source = open_source(save(tmp_path, images=IMAGES[..., 0]))
    assert source[0].image.shape == (3, 2, 1)
    assert source[0][1:3] == (-1, ())
    assert source[0].caption == ""
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


def test_an_npy_is_its_images(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    # Under the wrong name, too.
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    source = open_source(f"npz:{tmp_path / 'x.npz'}")
    assert len(source) == 18
    assert source[0][1:3] == (-1, ())
    np.save(tmp_path / "y.npy", np.float32(0))
    with pytest.raises(InputError, match=r"images is float32 \[\]"):
        open_source(f"npz:{tmp_path / 'y.npy'}")


def all_labels(spec: str) -> list[int]:
    """By the images' first pixels, over both splits."""
    found = {}
    for split in ("train", "test"):
        source = open_source(spec, split)
        found |= {source[i].image.tobytes(): source[i].label for i in range(len(source))}
    return [found[image.tobytes()] for image in IMAGES]


def test_labels_that_do_not_count_from_0(tmp_path, caplog):
    spec = save(tmp_path, images=IMAGES, labels=np.arange(20) % 10 + 1)
    assert open_source(spec).class_names == tuple(map(str, range(1, 11)))
    assert all_labels(spec) == [i % 10 for i in range(20)]
    assert "labels 1 to 10 are 10 classes" in caplog.text
    spec = save(tmp_path, images=IMAGES, labels=np.array([7, 300, -1, 7] * 5))
    assert open_source(spec).class_names == ("7", "300")
    assert all_labels(spec) == [0, 1, -1, 0] * 5
    # With names the labels count from 0, whatever occurs.
    spec = save(tmp_path, images=IMAGES, labels=np.full(20, 1), class_names=np.array(["a", "b", "c"]))
    assert open_source(spec).class_names == ("a", "b", "c")
    assert all_labels(spec) == [1] * 20


def test_labels_of_other_shapes(tmp_path):
    spec = save(tmp_path, images=IMAGES, labels=np.arange(20, dtype=np.uint8)[:, None] % 3)
    assert all_labels(spec) == [i % 3 for i in range(20)]
    with pytest.raises(InputError, match=r"labels is float64 \[20, 3\].*one-hot labels save labels.argmax\(1\)"):
        open_source(save(tmp_path, images=IMAGES, labels=np.eye(3)[np.arange(20) % 3]))
    spec = save(tmp_path, images=IMAGES, labels=np.array(["dog", "cat"] * 10))
    assert open_source(spec).class_names == ("cat", "dog")
    assert all_labels(spec) == [1, 0] * 10


def test_several_captions_an_image(tmp_path):
    texts = np.array([["a", "b"], ["c", ""], ["", ""], ["d", "d"]] * 5)
    source = open_source(save(tmp_path, images=IMAGES, prompts=texts))
    expected = {IMAGES[i].tobytes(): [("a", "b"), ("c",), (), ("d",)][i % 4] for i in range(20)}
    for i in range(len(source)):
        assert source[i].captions == expected[source[i].image.tobytes()]


def test_arrays_that_are_not_read_are_named(tmp_path, caplog):
    open_source(save(tmp_path, images=IMAGES, masks=IMAGES, parameters=np.array("{}")))
    assert "arrays not read: masks" in caplog.text
    with pytest.raises(InputError, match=r"no array 'images' \(it has x_train, y_train\)"):
        open_source(save(tmp_path, x_train=IMAGES, y_train=np.arange(20)))
