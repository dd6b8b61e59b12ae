import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ldm_jax.data import prepare, to_float, to_uint8


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.integers(1, 40), st.sampled_from([1, 3]))
def test_prepare_gives_the_asked_shape_and_keeps_a_flat_colour(h, w, c, size, channels):
    out = prepare(np.full((h, w, c), 200, np.uint8), size, channels)
    assert out.shape == (size, size, channels)
    assert out.dtype == np.uint8
    assert (out == 200).all()


@given(arrays(np.uint8, (7, 7, 3)))
def test_prepare_leaves_an_image_of_the_right_size_alone(image):
    np.testing.assert_array_equal(prepare(image, 7, 3), image)


def test_prepare_crops_the_centre():
    image = np.zeros((4, 10, 1), np.uint8)
    image[:, 3:7] = 255
    assert (prepare(image, 4, 1) == 255).all()
    assert (prepare(image.swapaxes(0, 1), 4, 1) == 255).all()


def test_prepare_halves_by_box_averages():
    image = np.zeros((8, 8, 1), np.uint8)
    image[::2] = 200
    assert (prepare(image, 2, 1) == 100).all()


def test_prepare_antialiases():
    checkers = (np.indices((60, 60)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    assert np.ptp(prepare(checkers, 32, 1).astype(int)[4:-4, 4:-4]) < 40


def test_prepare_upscales_smoothly():
    ramp = np.tile(np.arange(0, 160, 20, dtype=np.uint8)[None, :, None], (8, 1, 1))
    row = prepare(ramp, 32, 1)[16, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() < 10


def test_channels_convert_by_luma_and_by_repetition():
    colour = np.zeros((2, 2, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    assert (prepare(colour, 2, 1) == 76).all()
    grey = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    np.testing.assert_array_equal(prepare(grey, 2, 3), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize(("shape", "channels"), [((2, 2, 2), 3), ((2, 2, 4), 3), ((2, 2, 3), 4), ((0, 2, 1), 1)])
def test_prepare_refuses_other_channels_and_empty_images(shape, channels):
    with pytest.raises(ValueError, match=r"channels|empty"):
        prepare(np.zeros(shape, np.uint8), 2, channels)


def test_every_grey_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8)
    floats = to_float(levels)
    assert floats.dtype == np.float32
    assert floats[0] == -1
    assert floats[-1] == 1
    np.testing.assert_array_equal(to_uint8(floats), levels)
    np.testing.assert_array_equal(to_uint8(np.array([-3.0, 0.0, 9.0])), [0, 128, 255])
