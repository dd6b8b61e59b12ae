"""Pictures out: grids and files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm_jax.errors import InputError
from ldm_jax.files import whole

SETTINGS = "parameters"
"""Name of the text in a PNG that tells what it was made with."""


def floating(dtype: Any) -> bool:
    """Whether a type is of floats; numpy does not count bfloat16 among them."""
    return np.issubdtype(dtype, np.floating) or np.dtype(dtype).name == "bfloat16"


def in_range(name: str, image: Any) -> np.ndarray:
    """Pictures [...] as float32 in [-1, 1], wherever a user gives some: uint8 is converted, floats must lie there.

    Raises:
      InputError: another type, values beyond [-1, 1] by more than rounding, NaN, or nothing at all.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8 and image.size:
        return image.astype(np.float32) / 127.5 - 1.0
    if not floating(image.dtype):
        raise InputError(f"{name}: {image.dtype} must be uint8, or floats in [-1, 1]")
    image = image.astype(np.float32)
    if not (image.size and np.isfinite(image).all() and np.abs(image).max() <= 1.001):
        raise InputError(f"{name}: it must be uint8, or floats in [-1, 1]")
    return image


def is_picture(shape: Sequence[int]) -> bool:
    """Whether signals [*space c] can be shown: two axes, grey or colour."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def grid(images: UInt8[np.ndarray, "n h w c"], columns: int) -> UInt8[np.ndarray, "gh gw c"]:
    """Images side by side, row by row, `columns` to a row; missing ones are white."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    padded = np.full((rows * columns, h, w, c), 255, np.uint8)
    padded[:n] = images
    return padded.reshape(rows, columns, h, w, c).transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)


def enlarged(image: UInt8[np.ndarray, "h w c"], scale: int) -> Image.Image:
    """An image as Pillow has it, every pixel `scale` times as large."""
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def write_png(
    path: Path, image: UInt8[np.ndarray, "h w c"], scale: int = 1, settings: Mapping[str, Any] | None = None
) -> None:
    """A PNG file, every pixel `scale` times as large; it appears whole or not at all.

    settings: what the picture was made with, kept in it as JSON; `read_settings` reads it back.
    """
    picture = enlarged(image, scale)
    info = PngInfo()
    if settings is not None:
        info.add_text(SETTINGS, json.dumps(settings))
    with whole(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a PNG that `write_png` wrote.

    Raises:
      InputError: it is missing, no PNG, or holds no settings.
    """
    try:
        with Image.open(path) as picture:
            # Text may lie behind the pixels.
            picture.load()
            text = getattr(picture, "text", {}).get(SETTINGS)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"again: {path} can't be read as a picture ({error})") from error
    try:
        settings = json.loads(text or "")
    except json.JSONDecodeError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"again: {path} doesn't tell how it was drawn; name a .png that sample.py wrote")
    return settings
