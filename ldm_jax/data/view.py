"""How training sees an example, so that what belongs to its picture is cropped, resized and mirrored with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8

from ldm_jax.data.decoding import decode, decode_ids, read_named
from ldm_jax.data.transforms import placed, prepare
from ldm_jax.errors import InputError


class View(NamedTuple):
    """The central square of a picture at `size`, mirrored or not."""

    shape: tuple[int, int]
    """Height and width of the picture as it was read."""
    size: int
    """Side of the square in training, in pixels."""
    mirrored: bool = False

    def picture(self, paired: Path | np.ndarray, channels: int) -> UInt8[np.ndarray, "size size channels"]:
        """A picture that belongs to it, in a file or as uint8 [h w c], as `prepare` makes it."""
        pixels = _read(paired, decode)
        self._check(paired, pixels)
        return self._turned(prepare(pixels, self.size, channels))

    def ids(self, paired: Path | np.ndarray) -> Integer[np.ndarray, "size size 1"]:
        """A map of class numbers that belongs to it, in a file or as integers [h w 1]: the nearest pixel's, unmixed."""
        found = _read(paired, decode_ids)
        if found.shape[-1] != 1:
            raise InputError(f"paired: {_name(paired)} has {found.shape[-1]} channels; class numbers are one channel")
        self._check(paired, found)
        height, width = int(found.shape[0]), int(found.shape[1])
        h, w, top, left = placed(height, width, self.size)
        steps = np.arange(self.size) + 0.5
        rows = ((steps + top) / h * height).astype(np.int64)
        columns = ((steps + left) / w * width).astype(np.int64)
        return self._turned(found[rows][:, columns])

    def boxes(self, boxes: Float[np.ndarray, "k 4"]) -> Float32[np.ndarray, "k 4"]:
        """Boxes (x0 y0 x1 y1) in pixels of the picture, in units of the square's side; beyond 0 to 1 is outside."""
        h, w, top, left = placed(*self.shape, self.size)
        scale = np.array([w / self.shape[1], h / self.shape[0]] * 2)
        x0, y0, x1, y1 = ((boxes * scale - np.array([left, top] * 2)) / self.size).T
        turned = (1.0 - x1, y0, 1.0 - x0, y1) if self.mirrored else (x0, y0, x1, y1)
        return np.stack(turned, axis=-1).astype(np.float32)

    def _turned(self, pixels: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(pixels[:, ::-1]) if self.mirrored else pixels

    def _check(self, paired: Path | np.ndarray, pixels: np.ndarray) -> None:
        """InputError where the shapes differ by more than rounding, as then no crop of one fits the other's."""
        (h, w), (own_h, own_w) = pixels.shape[:2], self.shape
        if abs(h * own_w - w * own_h) > max(h, w, own_h, own_w):
            raise InputError(
                f"paired: {_name(paired)} is {h}x{w}, its image {own_h}x{own_w}; accepted: the same proportions"
            )


def _name(paired: Path | np.ndarray) -> str:
    return str(paired) if isinstance(paired, Path) else "it"


def _read(paired: Path | np.ndarray, how: Callable[[Path], np.ndarray]) -> np.ndarray:
    return read_named("paired", paired, how) if isinstance(paired, Path) else paired
