"""`bundled:emoji`: Microsoft's Fluent 3D emoji on white, 64x64x3, with names and categories.

1,852 pictures: every emoji of the npm package `@lobehub/fluent-emoji-3d` 1.1.0 that `emoji-datasource-google` 16.0.0
names, without its variants in skin tone. The captions of a picture are its plain name ("grinning face with smiling
eyes") and, where there are any, other names; the label is its category ("Food & Drink"). About a tenth of the concepts
is held out for "test". A concept is a picture and its variants, in gender, hair, colour, direction or time, so that
none of these leaks. `make_emoji.py` makes the files and says how.
"""

import functools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_jax.data.arrays import ArraySource

HERE = Path(__file__).parent
SIDE = 64
CLASSES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)


@functools.cache
def open_split(split: str) -> ArraySource:
    """The pictures of "train" or "test" in the order of their code points."""
    rows = json.loads((HERE / "emoji.json").read_text("utf-8"))
    chosen = [i for i, row in enumerate(rows) if row["split"] == split]
    images = _sheet()[chosen]
    # Cached and shared by every caller.
    images.flags.writeable = False
    labels = np.array([CLASSES.index(rows[i]["category"]) for i in chosen])
    return ArraySource(images, labels, [tuple(rows[i]["captions"]) for i in chosen], CLASSES)


@functools.cache
def _sheet() -> np.ndarray:
    """All pictures and, at the end, white ones, uint8 [n 64 64 3]."""
    with Image.open(HERE / "emoji.webp") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    tiles = pixels.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, SIDE, SIDE, 3)
