"""The picture of a report: samples, their nearest training images beside them, and a metric along a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from ldm_jax.errors import InputError
from ldm_jax.metrics.checks import grey_levels
from ldm_jax.metrics.report import number

INK, FAINT, COLOURS = (30, 30, 30), (215, 215, 215), ((31, 97, 173), (200, 80, 30), (40, 130, 70), (130, 60, 150))
GAP, LINE = 12, 18


def neighbours(
    samples: UInt8[np.ndarray, "n h w c"],
    nearest: UInt8[np.ndarray, "n k h w c"],
    distances: Float[np.ndarray, "n k"],
    columns: int = 4,
) -> UInt8[np.ndarray, "gh gw 3"]:
    """Each sample followed by its k nearest training images, `columns` such groups to a row, distances below.

    Images are enlarged by a whole factor to about 64 px.

    Raises:
      InputError: pictures that are not uint8, or not as many as the samples, or no columns.
    """
    grey_levels("samples", samples)
    if nearest.size:
        grey_levels("nearest", nearest, axes=5)
    if len(nearest) != len(samples) or distances.shape != nearest.shape[:2] or columns < 1:
        shapes = f"{list(samples.shape)}, {list(nearest.shape)}, {list(distances.shape)}, {columns}"
        raise InputError(f"samples, nearest, distances, columns: {shapes} do not belong together")
    n, h, w, _ = samples.shape
    scale = max(1, round(64 / max(h, w)))
    h, w = h * scale, w * scale
    k = nearest.shape[1]
    columns, rows = min(columns, n), -(-n // min(columns, n))
    group, row = (k + 1) * w + 6 + GAP, h + LINE + 4
    canvas = Image.new("RGB", (columns * group + GAP, rows * row + LINE + 2 * GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=11)
    title = "sample | nearest training images, with distances" if k else "samples"
    draw.text((GAP, GAP // 2), title, fill=INK, font=font)
    for i in range(n):
        left, top = GAP + i % columns * group, LINE + GAP + i // columns * row
        for j, image in enumerate([samples[i], *nearest[i]]):
            place = left + j * w + (6 if j else 0)
            canvas.paste(_picture(image, scale), (place, top))
            if j:
                draw.text((place + 2, top + h + 1), f"{distances[i, j - 1]:.3g}", fill=INK, font=font)
    return np.asarray(canvas)


def plot(
    field: str, values: Sequence[float | int], curves: Mapping[str, Sequence[float]], width: int = 640
) -> UInt8[np.ndarray, "gh gw 3"]:
    """Metrics against the values of a sweep, one frame a metric below the other, each with its own scale from 0.

    Raises:
      InputError: nothing to draw, or a curve that has not a number for each value.
    """
    if not values or not curves or any(len(curve) != len(values) for curve in curves.values()):
        raise InputError(f"values, curves: {len(values)} values must be as many as each of {len(curves)} curves has")
    frame, left, right, bottom = 200, 64, 24, 40
    canvas = Image.new("RGB", (width, frame * len(curves)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    low, high = min(values), max(values)
    for i, (name, numbers) in enumerate(curves.items()):
        top, floor = i * frame + 28, (i + 1) * frame - bottom
        finite = [y for y in numbers if np.isfinite(y)]
        ceiling = _ceiling(max([*finite, 1e-12]))
        below = min([0.0, *finite])

        def place(
            x: float | int, y: float, top: int = top, floor: int = floor, below: float = below, ceiling: float = ceiling
        ) -> tuple[float, float]:
            share = (x - low) / (high - low) if high > low else 0.5
            return left + share * (width - left - right), floor - (y - below) / (ceiling - below) * (floor - top)

        for tick in np.linspace(below, ceiling, 5):
            y = place(low, float(tick))[1]
            draw.line([(left, y), (width - right, y)], fill=FAINT)
            draw.text((left - 6, y), number(float(tick)), fill=INK, font=font, anchor="rm")
        colour = COLOURS[i % len(COLOURS)]
        points = [place(x, y) for x, y in sorted(zip(values, numbers, strict=True)) if np.isfinite(y)]
        draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        for x in values:
            draw.text((place(x, below)[0], floor + 4), f"{x:g}", fill=INK, font=font, anchor="ma")
        draw.text((left, i * frame + 6), name, fill=colour, font=font)
        draw.text((width - right, floor + 20), field, fill=INK, font=font, anchor="ra")
    return np.asarray(canvas)


def stack(parts: Sequence[UInt8[np.ndarray, "_h _w 3"]]) -> UInt8[np.ndarray, "gh gw 3"]:
    """Pictures one below the other, on white."""
    for part in parts:
        grey_levels("parts", part, axes=3)
    if not parts:
        raise InputError("parts: there is no picture")
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in parts]
    return np.concatenate(padded)


def _picture(image: np.ndarray, scale: int) -> Image.Image:
    large = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(large, (*large.shape[:2], 3))))


def _ceiling(value: float) -> float:
    """The next number of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(m * power for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * power >= value * (1 - 1e-12)))
