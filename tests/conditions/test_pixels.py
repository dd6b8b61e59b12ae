"""Edges and paired images: what a latent position is told of them, and that they are cropped and mirrored alike."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cache.conditions import read_condition
from ldm_jax.conditions import Given, Size
from ldm_jax.conditions.edges import Edges, edges
from ldm_jax.conditions.paired_image import PairedImage
from ldm_jax.data import Example, Loader, View, open_source
from ldm_jax.errors import InputError

GIVEN = Given((), None, (8, 8, 3), (4, 4, 2), pairs=True)
SIZE = Size((4, 4), 2, 2)


def told(condition, arrays):
    return np.asarray(condition.apply({}, arrays, None).image)


def test_edges_of_a_step_and_of_nothing():
    """Where black meets white both columns beside the step are 255, and the gradient of a ramp is its slope."""
    step = np.zeros((6, 6, 1), np.uint8)
    step[:, 3:] = 255
    np.testing.assert_array_equal(edges(step)[..., 0], np.array([[0, 0, 255, 255, 0, 0]] * 6, np.uint8))
    np.testing.assert_array_equal(edges(step.swapaxes(0, 1)), edges(step).swapaxes(0, 1))
    assert not edges(np.full((4, 4, 3), 200, np.uint8)).any()
    ramp = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None] * 20, (6, 6, 3))
    # Sobel's weights sum to 4 on each side, two pixels apart: 8 slopes, of which edges takes a fourth.
    np.testing.assert_array_equal(edges(np.ascontiguousarray(ramp))[1:-1, 1:-1], np.full((4, 4, 1), 40, np.uint8))


def test_a_mirrored_image_has_mirrored_edges():
    x = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(edges(np.ascontiguousarray(x[:, ::-1])), edges(x)[:, ::-1])


def test_edges_are_asked_for_as_drawn_or_of_pictures(tmp_path):
    condition = Edges().build(GIVEN)
    x = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), np.uint8)
    found = np.stack([edges(one) for one in x])
    want = told(condition, {"image": found, "hidden": np.zeros(2, bool)})
    for given in ({"edges": found}, {"edges_of": x}, {"edges_of": x.astype(np.float32) / 127.5 - 1.0}):
        np.testing.assert_allclose(told(condition, condition.ask(SIZE, **given).arrays), want, atol=1e-6)
    for i, one in enumerate(found):
        Image.fromarray(one[..., 0]).save(tmp_path / f"{i}.png")
    files = [str(tmp_path / "0.png"), tmp_path / "1.png"]
    np.testing.assert_allclose(told(condition, condition.ask(SIZE, edges=files).arrays), want, atol=1e-6)
    assert not told(condition, condition.ask(SIZE).arrays).any()


def test_a_position_is_told_its_own_pixels():
    condition = PairedImage(channels=3).build(GIVEN)
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (1, 8, 8, 3)).astype(np.float32)
    found = told(condition, condition.ask(SIZE, paired=x).arrays)
    assert found.shape[-1] == condition.channels == 12
    np.testing.assert_allclose(found[0, 1, 3], x[0, 2:4, 6:8].reshape(-1), atol=1e-6)


def test_of_a_map_each_class_has_its_share():
    condition = PairedImage(classes=3).build(GIVEN)
    ids = np.full((1, 8, 8), 255, np.int64)
    ids[0, :2, :2] = [[0, 1], [1, 2]]
    found = told(condition, condition.ask(SIZE, paired=ids).arrays)
    assert found.shape == (1, 4, 4, condition.channels) == (1, 4, 4, 3)
    np.testing.assert_allclose(found[0, 0, 0], [0.25, 0.5, 0.25])
    assert not found.reshape(-1, 3)[1:].any()


def test_a_map_keeps_its_numbers_whatever_its_file(tmp_path):
    ids = np.random.default_rng(0).integers(0, 3, (16, 16)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    picture = Image.fromarray(ids)
    picture.save(tmp_path / "grey.png")
    palette = picture.convert("P")
    palette.putdata(ids.reshape(-1).tolist())
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "palette.png")
    condition = PairedImage(classes=3).build(GIVEN._replace(example=(16, 16, 3), latent=(8, 8, 2)))
    for name in ("grey", "palette"):
        asked = condition.ask(Size((8, 8), 2, 2), paired=tmp_path / f"{name}.png").arrays["image"]
        np.testing.assert_array_equal(asked[0, ..., 0], ids[1::2, 1::2])
    Image.new("RGB", (16, 16)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match=r"colour\.png has pixels of mode RGB; accepted: class numbers"):
        condition.ask(SIZE, paired=tmp_path / "colour.png")


@pytest.mark.parametrize("ids", [False, True])
def test_image_and_pair_are_cropped_and_mirrored_alike(ids, tmp_path):
    """The pair of each picture is the picture itself: where it is not resized, what is read of it is the image."""
    rng = np.random.default_rng(0)
    (tmp_path / "paired").mkdir()
    for i, shape in enumerate([(12, 20), (30, 9), (8, 8), (17, 16), (9, 9)]):
        x = rng.integers(0, 200, shape, np.uint8)
        Image.fromarray(x).save(tmp_path / f"{i}.png")
        Image.fromarray(x).save(tmp_path / "paired" / f"{i}.png")
    loader = Loader(open_source(f"folder:{tmp_path}"), batch_size=1, image_size=8, channels=1, seed=0, flip=True)
    condition = PairedImage(classes=200 if ids else 0, channels=1).build(GIVEN)
    found = read_condition(condition, loader)["image"]
    images = np.stack([example.image for i in range(4) for example in loader.views(i)])
    assert found.shape == images.shape == (8, 8, 8, 1)
    assert (found[1::2] == found[::2, :, ::-1]).all()
    whole = np.array([not ids or min(e.view.shape) == 8 for i in range(4) for e in loader.views(i)])
    assert whole.any()
    np.testing.assert_array_equal(found[whole], images[whole])


def test_an_example_without_a_pair_is_as_one_that_was_dropped():
    condition = PairedImage().build(GIVEN)
    x = np.full((8, 8, 3), 7, np.uint8)
    (arrays,) = condition.read(Example(x))
    assert not told(condition, {name: value[None] for name, value in arrays.items()}).any()
    assert told(condition, {k: v[None] for k, v in condition.read(Example(x, paired=x))[0].items()}).any()


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (Edges(), {"edges": np.zeros((1, 8, 8, 3), np.uint8)}, r"edges: \[1, 8, 8, 3\] must be \[n 8 8 1\]"),
        (Edges(), {"edges_of": np.zeros((1, 4, 4, 3), np.uint8)}, r"edges_of: \[1, 4, 4, 3\] must be \[n 8 8 c\]"),
        (Edges(), {"edges": 1, "edges_of": 1}, "edges, edges_of: give one of them"),
        (Edges(), {"edges": "none.png"}, "edges: none.png can't be read"),
        (Edges(dropout=0.0), {}, r"edges: this model draws from edges; give \[n 8 8 1\]"),
        (PairedImage(), {"paired": np.zeros((1, 8, 8, 1), np.uint8)}, r"must be \[n 8 8 3\]"),
        (PairedImage(dropout=0.0), {}, r"paired: this model draws from images; give \[n 8 8 3\], or files"),
        (PairedImage(3), {"paired": np.full((1, 8, 8), 3)}, "it holds the class 3; accepted: 0 to 2, 255 for none"),
        (PairedImage(3), {"paired": np.zeros((1, 8, 8))}, r"float64 \[1, 8, 8\] must be class numbers \[n 8 8\]"),
    ],
)
def test_what_is_wrong_is_one_line(config, given, message):
    with pytest.raises(InputError, match=message):
        config.build(GIVEN).ask(SIZE, **given)


def test_pairs_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match=r"conditions\.paired_image: the data have no paired images"):
        PairedImage().build(GIVEN._replace(pairs=False))
    with pytest.raises(InputError, match="paired: it is 8x16, its image 8x8; accepted: the same proportions"):
        View((8, 8), 8).picture(np.zeros((8, 16, 3), np.uint8), 3)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"paired: .*x.png can't be read \("):
        View((8, 8), 8).ids(tmp_path / "x.png")
