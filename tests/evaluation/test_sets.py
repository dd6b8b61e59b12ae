import numpy as np
import pytest

from ldm_jax.data import Loader, open_source, to_uint8
from ldm_jax.evaluation.sets import Hashed, array_set, first_images, source_set, spread_images


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
