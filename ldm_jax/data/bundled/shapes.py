"""`bundled:shapes`: coloured shapes with captions, made while they are read; what is drawn can be judged exactly.

Each picture shows one or two objects on white; an object is a colour, a shape, a size and a place, and its caption says
so in plain English. No object of training has one of the HELD_OUT pairs of colour and shape; every picture of the test
split has at least one.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from ldm_jax.data.source import Annotation, Example, Objects

SIDE = 64
"""Pixels along each side of a picture."""
COUNTS = {"train": 12_000, "test": 2_000}
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (245, 215, 40),
    "green": (40, 160, 60),
    "blue": (35, 95, 215),
    "purple": (140, 50, 180),
    "pink": (250, 140, 195),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": 9, "large": 14}
"""Radius in pixels, about which a pixel is drawn at random."""
HELD_OUT = (
    ("red", "star"),
    ("yellow", "circle"),
    ("green", "ring"),
    ("blue", "triangle"),
    ("purple", "cross"),
    ("black", "square"),
)
"""An eighth of the 48 pairs of colour and shape."""
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
SHARPER = 8
"""Masks are drawn so many times larger, and averaged."""


class Thing(NamedTuple):
    """One object of a picture."""

    colour: str
    shape: str
    size: str
    centre: tuple[int, int]
    """(y, x) in pixels."""
    radius: int


class Shapes:
    """The split "train" or "test" of the set; a Source. Example i is a function of the split and i."""

    class_names: tuple[str, ...] = ()
    has_captions = True
    object_names = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

    def __init__(self, split: str):
        self.split = split

    def __len__(self) -> int:
        return COUNTS[self.split]

    def __getitem__(self, index: int) -> Example:
        things, caption = self.scene(index)
        kinds = np.array([self.object_names.index(f"{thing.colour} {thing.shape}") for thing in things])
        return Example(paint(things), -1, (caption,), None, Objects(np.array([box(thing) for thing in things]), kinds))

    def annotation(self, index: int) -> Annotation:
        return -1, (self.scene(index)[1],)

    def scene(self, index: int) -> tuple[tuple[Thing, ...], str]:
        """The objects of example `index`, in the caption's order, and the caption."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        rng = np.random.default_rng((list(COUNTS).index(self.split), index))
        return _one(rng, self.split == "test") if rng.random() < 0.5 else _two(rng, self.split == "test")


def _pair(rng: np.random.Generator, held_out: bool) -> tuple[str, str]:
    if held_out:
        return HELD_OUT[rng.integers(len(HELD_OUT))]
    while True:
        pair = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        if pair not in HELD_OUT:
            return pair


def _thing(rng: np.random.Generator, pair: tuple[str, str], size: str, y: int, x: int) -> Thing:
    """An object within a pixel of (y, x), inside the picture."""
    radius = SIZES[size] + int(rng.integers(-1, 2))
    near = np.clip(np.array([y, x]) + rng.integers(-1, 2, 2), radius, SIDE - radius - 1)
    return Thing(*pair, size, (int(near[0]), int(near[1])), radius)


def _words(thing: Thing) -> str:
    return f"{thing.size} {thing.colour} {thing.shape}"


def _one(rng: np.random.Generator, held_out: bool) -> tuple[tuple[Thing, ...], str]:
    row, column = rng.integers(3, size=2)
    size = str(rng.choice(list(SIZES)))
    thing = _thing(rng, _pair(rng, held_out), size, 15 + 17 * int(row), 15 + 17 * int(column))
    place = f"{ROWS[row]} {COLUMNS[column]}".strip()
    place = f"at the {place}" if place else "in the centre"
    words = _words(thing)
    wordings = (f"a {words}", f"a {words} {place}", f"one {words} {place}", f"there is a {words} {place}")
    return (thing,), wordings[rng.integers(len(wordings))]


def _two(rng: np.random.Generator, held_out: bool) -> tuple[tuple[Thing, ...], str]:
    sizes = [str(rng.choice(list(SIZES))) for _ in range(2)]
    first, second = _pair(rng, held_out), _pair(rng, held_out and rng.random() < 0.3)
    if rng.random() < 0.5:
        first, second = second, first
    across = rng.random() < 0.5
    shift = int(rng.integers(-8, 9))
    places = [(32 + shift, 15), (32 - shift, 48)] if across else [(15, 32 + shift), (48, 32 - shift)]
    a, b = (_thing(rng, pair, size, *place) for pair, size, place in zip((first, second), sizes, places, strict=True))
    one, other = (_words(thing) for thing in (a, b))
    if across:
        straight = (
            f"a {one} left of a {other}",
            f"a {one} to the left of a {other}",
            f"a {one} on the left and a {other} on the right",
        )
        turned = (f"a {other} right of a {one}", f"a {other} to the right of a {one}")
    else:
        straight = (f"a {one} above a {other}", f"a {one} over a {other}", f"a {one} on top, a {other} at the bottom")
        turned = (f"a {other} below a {one}", f"a {other} under a {one}")
    k = int(rng.integers(len(straight) + len(turned)))
    return ((a, b), straight[k]) if k < len(straight) else ((b, a), turned[k - len(straight)])


def _corners(shape: str) -> list[tuple[float, float]]:
    """A polygon's corners (x, y) within the unit circle."""
    if shape == "square":
        s = 0.82
        return [(-s, -s), (s, -s), (s, s), (-s, s)]
    if shape == "cross":
        a, b = 0.33, 0.95
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    points, inner = (3, 1.0) if shape == "triangle" else (5, 0.42)
    turns = np.arange(2 * points if inner < 1.0 else points) * (np.pi / points if inner < 1.0 else 2 * np.pi / points)
    radii = np.where(np.arange(len(turns)) % 2, inner, 1.0)
    return [(float(r * np.sin(a)), float(-r * np.cos(a))) for r, a in zip(radii, turns, strict=True)]


@functools.cache
def mask(shape: str, radius: int) -> Float[np.ndarray, "s s"]:
    """How much of each pixel a shape covers, 0 to 1, in a square of 2 radius + 1 pixels."""
    side = (2 * radius + 1) * SHARPER
    image = Image.new("L", (side, side))
    draw, middle, r = ImageDraw.Draw(image), side / 2, radius * SHARPER
    if shape in ("circle", "ring"):
        draw.ellipse([middle - 0.95 * r] * 2 + [middle + 0.95 * r] * 2, fill=255)
        if shape == "ring":
            draw.ellipse([middle - 0.55 * r] * 2 + [middle + 0.55 * r] * 2, fill=0)
    else:
        draw.polygon([(middle + r * x, middle + r * y) for x, y in _corners(shape)], fill=255)
    fine = np.asarray(image, np.float32) / 255.0
    found = fine.reshape(2 * radius + 1, SHARPER, 2 * radius + 1, SHARPER).mean(axis=(1, 3))
    found.flags.writeable = False  # Cached and shared.
    return found


def box(thing: Thing) -> tuple[float, float, float, float]:
    """(x0 y0 x1 y1) of an object in pixels: the smallest that holds every pixel of which it covers a third or more."""
    rows, columns = np.nonzero(mask(thing.shape, thing.radius) > 0.3)
    top, left = (centre - thing.radius for centre in thing.centre)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return float(left + x0), float(top + y0), float(left + x1), float(top + y1)


def paint(things: tuple[Thing, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of these objects on white."""
    picture = np.full((SIDE, SIDE, 3), 255.0, np.float32)
    for thing in things:
        (y, x), r = thing.centre, thing.radius
        cover = mask(thing.shape, r)[..., None]
        place = picture[y - r : y + r + 1, x - r : x + r + 1]
        place += cover * (np.asarray(COLOURS[thing.colour], np.float32) - place)
    return np.rint(picture).astype(np.uint8)
