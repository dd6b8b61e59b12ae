"""What belongs to the pictures of a folder: an image beside each, and the objects in it with their boxes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ldm_jax.data.source import Objects
from ldm_jax.errors import InputError

PAIRED = ("paired_file_name", "paired")
"""Columns of the file that belongs to an image; else any other that ends in _file_name (as imagefolder has it)."""
FOLDER = "paired"
"""A folder whose pictures belong to those of the same names outside of it."""
IMAGES = "images"
"""The folder beside it that they may lie in."""
OBJECTS = ("objects",)
NAMES = ("category", "categories", "label", "labels", "class", "classes")
"""What the classes of the boxes may be called; the first counts."""

Box = tuple[str | int, tuple[float, float, float, float]]
"""An object's class, and (x0 y0 x1 y1) in pixels of the file."""


def paired_column(columns: Iterable[str], file: str) -> str:
    """The column that names the image that belongs to `file`'s, "" for none."""
    known = [name for name in PAIRED if name in columns]
    return next(iter(known or [name for name in columns if name.endswith("_file_name") and name != file]), "")


def boxes_of(found: Any, where: str) -> tuple[Box, ...] | None:
    """The objects of a row: {"bbox": [[x y width height] ...], "categories": [...]}; None where it has none.

    In a CSV the same as JSON in a cell. Boxes of no width or height are left out.

    Raises:
      InputError: it is of another form.
    """
    accepted = 'accepted: {"bbox": [[x, y, width, height], ...], "categories": [...]}, a name or an integer a box'
    if isinstance(found, str):
        try:
            found = json.loads(found) if found.strip() else None
        except ValueError as error:
            raise InputError(f"{where}: objects is {found[:40]!r}; {accepted}") from error
    if found is None:
        return None
    if not isinstance(found, dict):
        raise InputError(f"{where}: objects is {str(found)[:40]}; {accepted}")
    boxes, name = found.get("bbox"), next((name for name in NAMES if name in found), None)
    kinds = found.get(name) if name is not None else None
    if not isinstance(boxes, list) or not isinstance(kinds, list) or len(boxes) != len(kinds):
        raise InputError(f"{where}: objects has {', '.join(map(str, found)) or 'nothing'}; {accepted}")
    out: list[Box] = []
    for kind, box in zip(kinds, boxes, strict=True):
        if not (isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)):
            raise InputError(f"{where}: the box {str(box)[:40]} of objects is no [x, y, width, height]")
        if type(kind) not in (str, int) or not np.isfinite(np.array(box, np.float64)).all():
            raise InputError(f"{where}: the object {str(kind)[:40]} at {str(box)[:60]} can't be used; {accepted}")
        x, y, width, height = map(float, box)
        if width > 0 and height > 0:
            out.append((kind, (x, y, x + width, y + height)))
    return tuple(out)


def objects_of(boxes: tuple[Box, ...] | None, names: Mapping[str, int]) -> Objects | None:
    """The same as an Example has it, by the places of the names."""
    if boxes is None:
        return None
    corners = np.array([box for _, box in boxes], np.float64).reshape(-1, 4)
    return Objects(corners, np.array([names[str(kind)] for kind, _ in boxes], np.int64))


def parallel(pictures: list[PurePosixPath]) -> tuple[dict[PurePosixPath, PurePosixPath], list[PurePosixPath]]:
    """Of the pictures those in the folder `paired/`, each by the picture that it belongs to, and those of no picture.

    paired/a/0.png belongs to a/0.jpg or images/a/0.jpg. Nothing where no name outside occurs in it: it is a class then.
    """
    inside = {PurePosixPath(*path.parts[1:]).with_suffix(""): path for path in pictures if path.parts[0] == FOLDER}
    found = {}
    for path in pictures:
        if path.parts[0] == FOLDER:
            continue
        below = PurePosixPath(*path.parts[1:]) if path.parts[0] == IMAGES and len(path.parts) > 1 else path
        pair = inside.get(path.with_suffix("")) or inside.get(below.with_suffix(""))
        if pair is not None:
            found[path] = pair
    if not found:
        return {}, []
    own = set(found.values())
    return found, [path for path in pictures if path.parts[0] == FOLDER and path not in own]
