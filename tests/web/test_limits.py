"""What a request may ask for at most."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.errors import InputError
from ldm_jax.web.limits import Limits, painted

LIMITS = Limits(images=4, steps=10, text=20, pixels=10_000)


@pytest.mark.parametrize("value", [0, 5, 2.5, True, "3", None, float("nan"), float("inf")])
def test_numbers_within_bounds(value):
    with pytest.raises(InputError, match=r"num: .* must be"):
        LIMITS.number("num", value, 1, 4)
    assert [LIMITS.number("num", given, 1, 4) for given in (1, 4.0)] == [1, 4]


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.5", None, float("nan")])
def test_shares_within_bounds(value):
    with pytest.raises(InputError, match=r"strength: .* from 0 to 1"):
        LIMITS.share("strength", value)
    assert LIMITS.share("strength", 1) == 1.0


def test_texts():
    assert LIMITS.words("prompt", "x" * 20) == "x" * 20
    for wrong in ("x" * 21, None, ["a"]):
        with pytest.raises(InputError, match="at most 20 characters"):
            LIMITS.words("prompt", wrong)


def test_uploads_are_fitted_and_transparent_is_white():
    picture = Image.new("RGBA", (60, 30), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 20, 30))
    pixels = LIMITS.upload("image", picture, 8, 8, 3)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    # The middle third is red to its left edge, which lies a little beyond the transparent part.
    assert tuple(pixels[4, 7]) == (255, 0, 0) and pixels[4, 0, 1] > 100
    assert LIMITS.upload("image", picture, 8, 8, 1).shape == (8, 8, 1)


def test_uploads_that_are_refused(tmp_path):
    with pytest.raises(InputError, match="no picture was given"):
        LIMITS.upload("image", "/etc/passwd", 8, 8, 3)
    Image.new("L", (101, 100)).save(tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as picture, pytest.raises(InputError, match=r"101x100 has more than 0.01"):
        LIMITS.upload("image", picture, 8, 8, 3)


def test_what_is_painted():
    layer = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    layer.paste((255, 0, 0, 255), (0, 0, 8, 16))
    mask = painted([layer, None], 4, 4)
    np.testing.assert_array_equal(mask, np.repeat([[1, 1, 0, 0]], 4, axis=0))
    for nothing in ([], None, [Image.new("RGBA", (4, 4), (0, 0, 0, 0))]):
        with pytest.raises(InputError, match="nothing is painted"):
            painted(nothing, 4, 4)
