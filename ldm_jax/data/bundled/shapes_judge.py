"""Reads the objects of a picture of `bundled:shapes` off its pixels, to judge what a model draws from a caption."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ldm_jax.data.bundled.shapes import COLOURS, SHAPES, SIZES, Thing, mask

INK = 60.0
"""RGB distance from white beyond which a pixel belongs to an object."""
LEAST = 30
"""Pixels of the smallest object; what is smaller is taken for noise."""


def things_in(picture: UInt8[np.ndarray, "h w 3"]) -> list[Thing]:
    """The objects, the largest first: every connected patch of ink with the colour and shape nearest to it."""
    x = picture.astype(np.float32)
    ink = np.linalg.norm(x - 255.0, axis=-1) > INK
    labelled: Any = ndimage.label(ink, np.ones((3, 3)))
    patches, count = labelled
    sizes = np.bincount(patches.ravel(), minlength=count + 1)[1:]
    order = [int(i) + 1 for i in np.argsort(sizes)[::-1] if sizes[i] >= LEAST]
    return [_read(x, patches == i) for i in order]


def _read(x: Float[np.ndarray, "h w 3"], patch: Bool[np.ndarray, "h w"]) -> Thing:
    inner: Any = ndimage.binary_erosion(patch)
    pixels = x[inner if inner.any() else patch]
    colour = _nearest(np.median(pixels, axis=0))
    rows, columns = np.nonzero(patch)
    box = int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())
    # How much ink a pixel has, as the masks have it: the share of the way from white to the object's colour.
    way = 255.0 - np.asarray(COLOURS[colour], np.float32)
    near: Any = ndimage.binary_dilation(patch)
    cover = np.where(near, np.clip((255.0 - x) @ way / (way @ way), 0.0, 1.0), 0.0)
    found = max((_match(cover, box, shape, radius) for shape in SHAPES for radius in _radii(box)), key=lambda m: m[0])
    _, shape, radius, centre = found
    size = min(SIZES, key=lambda name: abs(SIZES[name] - radius))
    return Thing(colour, shape, size, centre, radius)


def _nearest(rgb: Float[np.ndarray, "3"]) -> str:
    return min(COLOURS, key=lambda name: float(np.linalg.norm(np.asarray(COLOURS[name], np.float32) - rgb)))


def _radii(box: tuple[int, int, int, int]) -> range:
    """Radii that objects of about this box may have: masks touch their square's sides or stop a little before."""
    extent = max(box[1] - box[0], box[3] - box[2]) / 2
    return range(max(int(extent) - 1, 3), int(extent * 1.25) + 3)


def _match(
    cover: Float[np.ndarray, "h w"], box: tuple[int, int, int, int], shape: str, radius: int
) -> tuple[float, str, int, tuple[int, int]]:
    """The overlap (intersection over union of ink) of a shape laid over a patch, box on box."""
    template = mask(shape, radius)
    own = np.nonzero(template > 0.3)
    middle = (box[0] + box[1]) / 2, (box[2] + box[3]) / 2
    offset = [(axis.min() + axis.max()) / 2 - radius for axis in own]
    y, x = (round(m - o) for m, o in zip(middle, offset, strict=True))
    padded = np.pad(cover, radius + 1)
    place = padded[y + 1 : y + 2 * radius + 2, x + 1 : x + 2 * radius + 2]
    if place.shape != template.shape:
        return 0.0, shape, radius, (y, x)
    both = float(np.minimum(place, template).sum())
    return both / float(cover.sum() + template.sum() - both), shape, radius, (y, x)
