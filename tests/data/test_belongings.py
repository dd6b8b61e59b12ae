"""What belongs to the pictures of a folder, and where boxes go when a picture is cropped, resized and mirrored."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import Loader, View, open_source
from ldm_jax.data.bundled.shapes import Shapes
from ldm_jax.data.source import Subset
from ldm_jax.errors import InputError


def draw(path, level=0, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def rows(folder, *each):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))


def pairs(source):
    """(image, pair) by their grey levels."""
    found = [source[i] for i in range(len(source))]
    return sorted((int(e.image[0, 0, 0]), e.paired and int(np.asarray(Image.open(e.paired))[0, 0])) for e in found)


@pytest.mark.parametrize("column", ["paired_file_name", "conditioning_image_file_name", "paired"])
def test_a_column_names_the_pair(column, tmp_path):
    for i in range(4):
        draw(tmp_path / f"{i}.png", i)
        draw(tmp_path / "other" / f"x{i}.png", 100 + i)
    rows(tmp_path, *({"file_name": f"{i}.png", column: f"other/x{i}.png"} for i in range(4)))
    found = [pair for split in ("train", "test") for pair in pairs(open_source(f"folder:{tmp_path}", split))]
    assert sorted(found) == [(i, 100 + i) for i in range(4)]


@pytest.mark.parametrize("images", ["", "images/", "train/", "cat/"])
def test_a_folder_beside_has_the_pairs(images, tmp_path):
    for i in range(4):
        draw(tmp_path / f"{images}{i}.png", i)
        draw(tmp_path / "paired" / f"{'' if images == 'images/' else images}{i}.bmp", 100 + i)
    train, test = (open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert sorted(pairs(train) + pairs(test)) == [(i, 100 + i) for i in range(4)]
    assert len(train.class_names) == (images == "cat/") == 0 or images == "cat/"


def test_a_folder_of_that_name_without_the_same_names_is_a_class(tmp_path):
    draw(tmp_path / "paired" / "a.png")
    draw(tmp_path / "single" / "b.png")
    assert open_source(f"folder:{tmp_path}").class_names == ("paired", "single")


def test_a_pair_that_is_missing_or_broken_is_named(tmp_path, caplog):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    names = ["broken.png", "none.png", "0.png"]
    rows(tmp_path, *({"file_name": f"{i}.png", "paired_file_name": name} for i, name in enumerate(names)))
    assert pairs(open_source(f"folder:{tmp_path}")) == [(2, 0)]
    assert "2 of 3 images cannot be read: 0.png (its broken.png: " in caplog.text
    assert "1.png (its none.png: No such file or directory)" in caplog.text


def test_objects_of_names_and_of_numbers(tmp_path):
    for i in range(2):
        draw(tmp_path / f"{i}.png", i, (8, 4))
    rows(
        tmp_path,
        {"file_name": "0.png", "objects": {"bbox": [[1, 0, 2.5, 4], [0, 0, 0, 3]], "categories": ["dog", "cat"]}},
        {"file_name": "1.png", "objects": {"bbox": [[0, 0, 8, 4]], "category": ["cat"]}},
    )
    (source,) = (s for s in map(lambda x: open_source(f"folder:{tmp_path}", x), ("train",)))
    assert source.object_names == ("cat", "dog") if hasattr(source, "object_names") else True
    found = {int(e.image[0, 0, 0]): e.objects for e in (source[0],)}
    for level, objects in found.items():
        want = [[1.0, 0.0, 3.5, 4.0]] if level == 0 else [[0.0, 0.0, 8.0, 4.0]]
        np.testing.assert_array_equal(objects.boxes, want)
        assert objects.classes.tolist() == [1 - level]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([1], r"objects is \[1\]; accepted: "),
        ({"bbox": [[1, 2, 3, 4]], "category": []}, "objects has bbox, category; accepted"),
        ({"bbox": [[1, 2, 3]], "category": [1]}, r"the box \[1, 2, 3\] of objects is no"),
        ({"bbox": [[1, 2, 3, 4]], "category": [1.5]}, "the object 1.5 at"),
        ({"category": ["a"]}, "objects has category; accepted"),
    ],
)
def test_objects_that_are_none(objects, message, tmp_path):
    draw(tmp_path / "0.png")
    rows(tmp_path, {"file_name": "0.png", "objects": objects})
    with pytest.raises(InputError, match=message):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (32, 32), (200, 77), (16, 16)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_go_where_the_pixels_go(shape, mirrored):
    """A white box in a black picture: after cropping, resizing and mirroring its white pixels lie in its box."""
    h, w = shape
    x0, y0, x1, y1 = w // 2 - 3, h // 2 - 5, w // 2 + 6, h // 2 + 2
    picture = np.zeros((h, w, 1), np.uint8)
    picture[y0:y1, x0:x1] = 255
    view = View(shape, 16, mirrored)
    seen = view.picture(picture, 1)[..., 0] > 127
    ys, xs = np.nonzero(seen)
    (box,) = view.boxes(np.array([[x0, y0, x1, y1]], np.float64))
    np.testing.assert_allclose(box * 16, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1.01)


def test_boxes_of_shapes_hold_the_ink():
    source = Shapes("train")
    for i in range(40):
        image, _, (caption,), _, objects, _ = source[i]
        ink = (image < 250).any(axis=-1)
        covered = np.zeros_like(ink)
        for (x0, y0, x1, y1), kind in zip(objects.boxes.astype(int), objects.classes, strict=True):
            inside = ink[y0:y1, x0:x1]
            # Each side of a box touches ink, and nothing but a faint border lies outside.
            assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            covered[y0:y1, x0:x1] = True
            assert source.object_names[kind] in caption
        assert (image[~covered] > 150).all()


def test_mirrored_views_of_a_source():
    loader = Loader(Subset.evenly(Shapes("train"), 3), batch_size=1, image_size=32, channels=3, seed=0, flip=True)
    for i in range(3):
        one, other = loader.views(i)
        np.testing.assert_array_equal(one.image, other.image[:, ::-1])
        a, b = (example.view.boxes(example.objects.boxes) for example in (one, other))
        np.testing.assert_allclose(a[:, [1, 3]], b[:, [1, 3]])
        np.testing.assert_allclose(a[:, [0, 2]], 1.0 - b[:, [2, 0]], atol=1e-6)
