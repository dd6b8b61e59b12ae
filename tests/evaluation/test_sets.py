import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import Loader, open_source, to_uint8
from ldm_jax.data.decoding import decode
from ldm_jax.errors import InputError
from ldm_jax.evaluation.numbers import inception_score_notes
from ldm_jax.evaluation.sets import (
    Hashed,
    array_set,
    first_images,
    folder_set,
    npz_set,
    source_set,
    spread_images,
)


@pytest.fixture
def images():
    return array_set(np.arange(11, dtype=np.uint8).reshape(11, 1, 1, 1), "eleven")


def values(images, batch_size=3):
    return [int(x) for batch in images.stream(batch_size) for x in batch.ravel()]


def test_the_first_and_the_spread(images):
    assert values(images) == list(range(11))
    assert values(first_images(images, 4)) == [0, 1, 2, 3]
    assert values(first_images(images, None)) == list(range(11))
    assert values(spread_images(images, 3)) == [0, 5, 10]
    assert spread_images(images, 6).read([0, 5]).ravel().tolist() == [0, 10]
    assert values(spread_images(images, 50)) == list(range(11))


def test_a_hash_is_of_the_pixels_not_of_the_batches(images):
    digests = set()
    for size in (1, 4, 11):
        hashed = Hashed(images.stream(size), images.shape)
        assert sum(map(len, hashed)) == 11
        digests.add(hashed.hexdigest())
    assert len(digests) == 1
    other = Hashed([np.arange(11, dtype=np.uint8)[::-1].reshape(11, 1, 1, 1)], images.shape)
    list(other)
    assert other.hexdigest() not in digests


def test_a_source_is_what_training_sees():
    chosen = source_set("bundled:fashion_mnist", "test", 32, 3, 5)
    assert chosen.count == 5 and chosen.shape == (32, 32, 3)
    streamed = np.concatenate(list(chosen.stream(2)))
    np.testing.assert_array_equal(streamed, chosen.read(range(5)))
    loader = Loader(open_source("bundled:fashion_mnist", "test"), batch_size=1, image_size=32, channels=3, seed=0)
    _, first, _ = next(loader.in_order(1))
    np.testing.assert_array_equal(streamed[:1], to_uint8(first))


def saved(path, array):
    np.savez(path, arr_0=array)
    return path


def test_floats_that_lie_in_0_to_1_are_refused(tmp_path):
    """They would be measured washed out: FD-EffNet 81.9 where the same pictures in uint8 have 42.1."""
    x = np.random.default_rng(0).random((3, 4, 4, 1))
    with pytest.raises(InputError, match="as if 0 were black; give 2 x - 1, or uint8"):
        npz_set(saved(tmp_path / "a.npz", x), "round")
    right = npz_set(saved(tmp_path / "b.npz", 2 * x - 1), "round").read(range(3))
    np.testing.assert_array_equal(right, np.round(255 * x).astype(np.uint8))
    with pytest.raises(InputError, match=r"goes from .* floats must lie in \[-1, 1\]"):
        npz_set(saved(tmp_path / "c.npz", 255 * x), "round")


def test_a_folder_is_read_as_training_reads_it(tmp_path):
    """16-bit grey by scale, not cut off; orientation, transparency and palettes by one rule."""
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    colour = np.random.default_rng(0).integers(0, 255, (8, 8, 4), np.uint8)
    for kind, picture in (
        ("16 bit", Image.fromarray(grey)),
        ("transparent", Image.fromarray(colour)),
        ("palette", Image.fromarray(colour[..., :3]).quantize(8)),
        ("black and white", Image.fromarray(grey > 30000)),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        picture.save(folder / "0.png")
        picture.save(folder / "1.png")
        found = folder_set(folder)
        want = decode(folder / "0.png")
        assert found.shape == want.shape
        np.testing.assert_array_equal(found.read([1])[0], want)
    assert folder_set(tmp_path / "16 bit").read([0]).max() == 251
    turned = tmp_path / "turned"
    turned.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour[:4, :, :3]).save(turned / "0.jpg", exif=exif)
    assert folder_set(turned).shape == (8, 4, 3)
    Image.fromarray(colour[:4, :, :3]).save(turned / "1.jpg")
    with pytest.raises(InputError, match=r"1\.jpg is 4x8x3, the first picture 8x4x3"):
        folder_set(turned)


def test_the_report_says_how_the_inception_score_was_grouped():
    assert inception_score_notes(10_000) and "last group" not in " ".join(inception_score_notes(10_000))
    assert "sorted by class score less" in inception_score_notes(10_000)[0]
    assert "the last group has 1 of 5001 samples" in inception_score_notes(5001)[1]
    assert inception_score_notes(300) == ["IS: one group of 300 samples; compare it with scores of as many alone"]
    assert inception_score_notes(5000) == []
