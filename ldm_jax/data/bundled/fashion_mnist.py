"""`bundled:fashion_mnist`: a balanced part of Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), 28x28x1."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_jax.data.arrays import ArraySource

HERE = Path(__file__).parent
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@functools.cache
def open_split(split: str) -> ArraySource:
    """10,000 ("train") or 2,000 ("test") pictures. Example i has class i % 10, so any prefix is balanced."""
    side, classes = 28, len(CLASSES)
    with Image.open(HERE / f"fashion_mnist_{split}.png") as sheet:
        pixels = np.asarray(sheet)
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    by_class = pixels.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(classes, -1, side, side, 1)
    images = np.ascontiguousarray(by_class.swapaxes(0, 1)).reshape(-1, side, side, 1)
    # Cached and shared by every caller.
    images.flags.writeable = False
    return ArraySource(images, np.arange(len(images)) % classes, None, CLASSES)
