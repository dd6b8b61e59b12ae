"""Pictures out: grids and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def grid(images: UInt8[np.ndarray, "n h w c"], columns: int) -> UInt8[np.ndarray, "gh gw c"]:
    """Images side by side, row by row, `columns` to a row; missing ones are white."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    padded = np.full((rows * columns, h, w, c), 255, np.uint8)
    padded[:n] = images
    return padded.reshape(rows, columns, h, w, c).transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)


def write_png(path: Path, image: UInt8[np.ndarray, "h w c"], scale: int = 1) -> None:
    """A PNG file, every pixel `scale` times as large; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    temporary = path.with_name(path.name + ".tmp")
    picture.save(temporary, format="PNG")
    temporary.replace(path)
