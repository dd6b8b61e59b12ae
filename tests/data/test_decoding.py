import io

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.decoding import check_decodes, decode

CORNER = np.zeros((4, 6, 3), np.uint8)
CORNER[0, 0] = 255


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("orientation", "shape", "corner"),
    [
        (1, (4, 6), (0, 0)),
        (2, (4, 6), (0, 5)),
        (3, (4, 6), (3, 5)),
        (4, (4, 6), (3, 0)),
        (5, (6, 4), (0, 0)),
        (6, (6, 4), (0, 3)),
        (7, (6, 4), (5, 3)),
        (8, (6, 4), (5, 0)),
    ],
)
def test_exif_orientation_is_applied(orientation, shape, corner):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(Image.fromarray(CORNER), exif=exif.tobytes()))
    assert image.shape == (*shape, 3)
    assert tuple(np.argwhere(image[..., 0] == 255)[0]) == corner


def test_broken_exif_is_no_reason_to_lose_the_image():
    data = encoded(Image.fromarray(CORNER), exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    np.testing.assert_array_equal(decode(data), CORNER)


def test_transparent_becomes_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 255, 51]
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgba)))[0, :, 0], [255, 0, 204])
    grey = Image.fromarray(rgba).convert("LA")
    image = decode(encoded(grey))
    assert image.shape == (1, 3, 1)
    np.testing.assert_array_equal(image[0, :, 0], [255, 0, 204])


def test_palettes_become_colour_with_and_without_a_transparent_entry():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decode(encoded(picture))[0], [[10, 20, 30], [40, 50, 60]])
    np.testing.assert_array_equal(decode(encoded(picture, transparency=0))[0], [[255, 255, 255], [40, 50, 60]])


def test_a_transparent_colour_becomes_white():
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(CORNER), transparency=(0, 0, 0))), 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind):
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    image = decode(encoded(Image.fromarray(levels), kind))
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 128, 255])
    assert image.shape == (1, 4, 1)


def test_black_and_white_grey_cmyk_and_animations():
    assert decode(encoded(Image.fromarray(np.array([[True, False]])))).ravel().tolist() == [255, 0]
    assert decode(encoded(Image.fromarray(CORNER[..., 0]))).shape == (4, 6, 1)
    assert decode(encoded(Image.new("CMYK", (2, 2)), "JPEG")).tolist() == [[[255] * 3] * 2] * 2
    frames = [Image.new("L", (2, 2), level) for level in (0, 255)]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).max() == 0


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match="floating-point"):
        decode(tmp_path / "x.tiff")
    assert check_decodes(tmp_path / "x.tiff") == "floating-point pixels"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated_files_are_found(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    file = tmp_path / f"x.{kind.lower()}"
    file.write_bytes(data)
    assert check_decodes(file) is None
    for length in (0, 10, len(data) // 2, len(data) - 200):
        file.write_bytes(data[:length])
        assert check_decodes(file), length
