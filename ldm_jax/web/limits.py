"""What a request to the page may ask for at most: checked here, whatever the page's controls would allow."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ldm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Each is a most that no request exceeds."""

    images: int = 16
    """Images of one request."""
    steps: int = 100
    """Steps of the sampler."""
    guidance: float = 30.0
    """Size of the guidance scale."""
    text: int = 1000
    """Characters of a prompt."""
    pixels: int = 4_000_000
    """Pixels of an upload, before it is decoded."""
    megabytes: int = 10
    """Of an upload's file."""
    queue: int = 50
    """Requests that wait; one more is refused."""

    def number(self, name: str, value: Any, least: int, most: int) -> int:
        """A whole number within bounds."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            raise InputError(f"{name}: {value!r} must be a whole number from {least} to {most}")
        if not least <= value <= most:
            raise InputError(f"{name}: {int(value)} must be from {least} to {most}")
        return int(value)

    def share(self, name: str, value: Any, most: float = 1.0, least: float = 0.0) -> float:
        """A number within bounds; NaN is none."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise InputError(f"{name}: {value!r} must be a number from {least:g} to {most:g}")
        return float(value)

    def words(self, name: str, value: Any) -> str:
        """A text that isn't too long."""
        if not isinstance(value, str) or len(value) > self.text:
            raise InputError(f"{name}: it must be a text of at most {self.text} characters")
        return value

    def upload(self, name: str, picture: Any, height: int, width: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
        """An uploaded picture, cut to the middle and scaled to what the model takes; transparent is white.

        picture: a Pillow image, whose pixels need not be decoded yet, so that a bomb isn't.
        """
        if not isinstance(picture, Image.Image):
            raise InputError(f"{name}: no picture was given")
        if picture.width * picture.height > self.pixels:
            size = f"{picture.width}x{picture.height}"
            raise InputError(f"{name}: {size} has more than {self.pixels / 1e6:g} million pixels; scale it down first")
        if min(picture.size) < 1:
            raise InputError(f"{name}: {picture.width}x{picture.height} holds no pixel")
        whole = picture.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
        fitted = ImageOps.fit(flat.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(fitted, np.uint8)
        return pixels[..., None] if channels == 1 else pixels


def painted(layers: Any, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """The mask, 0 or 1, that was painted: wherever a layer of the editor isn't transparent."""
    mask = np.zeros((height, width), bool)
    for layer in layers or ():
        if isinstance(layer, Image.Image):
            alpha = ImageOps.fit(layer.convert("RGBA").getchannel("A"), (width, height), Image.Resampling.BOX)
            mask |= np.asarray(alpha) > 127
    if not mask.any():
        raise InputError("mask: nothing is painted; paint over what is to be drawn anew")
    return mask.astype(np.uint8)
