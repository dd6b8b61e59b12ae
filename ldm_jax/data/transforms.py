"""Images between files and networks, as numpy arrays."""

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image


def placed(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """(height, width, top, left): how large `prepare` makes a whole picture, and where its square begins in that."""
    while min(height, width) >= 2 * size:
        height, width = height // 2, width // 2
    scale = size / min(height, width)
    height, width = round(height * scale), round(width * scale)
    return height, width, (height - size) // 2, (width - size) // 2


def prepare(image: UInt8[np.ndarray, "h w c"], size: int, channels: int) -> UInt8[np.ndarray, "size size channels"]:
    """The central square of an image at `size`, as ADM prepares its training data.

    The image is halved with a box filter while its short side is at least twice `size`, resized with an antialiased
    bicubic filter (up or down) so that the short side is `size`, and cropped to the centre. Three channels become one
    by the luma of ITU-R 601, one becomes three by repetition.

    Raises:
      ValueError: c or `channels` is neither 1 nor 3, or the image is empty.
    """
    height, width, c = image.shape
    if c not in (1, 3) or channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {c} (wanted: {channels})")
    if min(height, width) < 1:
        raise ValueError(f"an image of {height}x{width} pixels is empty")
    picture = Image.fromarray(image if c == 3 else image[..., 0])
    if c == 3 and channels == 1:
        picture = picture.convert("L")
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    whole_height, whole_width, top, left = placed(height, width, size)
    if picture.size != (whole_width, whole_height):
        picture = picture.resize((whole_width, whole_height), Image.Resampling.BICUBIC)
    out = np.asarray(picture)[top : top + size, left : left + size]
    if out.ndim == 2:
        out = out[..., None]
    return np.ascontiguousarray(np.broadcast_to(out, (size, size, channels)))


def to_float(image: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Grey levels 0..255 to float32 in [-1, 1]."""
    out = image.astype(np.float32)
    out /= np.float32(127.5)
    out -= np.float32(1)
    return out


def to_uint8(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """[-1, 1] to the nearest grey level 0..255; values outside are clamped. Undoes `to_float` exactly."""
    return np.clip(np.round(image * 127.5 + 127.5), 0, 255).astype(np.uint8)
