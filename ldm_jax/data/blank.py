"""`blank:1000`, `blank:captions`: grey pictures in place of a data set that isn't here, for plans and timings."""

from __future__ import annotations

import numpy as np

from ldm_jax.data.source import Annotation, Example, check_split
from ldm_jax.errors import InputError

LENGTH = 10_000
SIDE = 64


class Blank:
    """10,000 grey pictures [64 64 3]: of `classes` classes in turn, or each with a caption of its own."""

    def __init__(self, classes: int, captions: bool):
        self.class_names = tuple(str(i) for i in range(classes))
        self.has_captions = captions

    def __len__(self) -> int:
        return max(LENGTH, len(self.class_names))

    def __getitem__(self, index: int) -> Example:
        label, captions = self.annotation(index)
        return Example(np.full((SIDE, SIDE, 3), 128, np.uint8), label, captions)

    def annotation(self, index: int) -> Annotation:
        label = index % len(self.class_names) if self.class_names else -1
        return label, (f"picture number {index}",) if self.has_captions else ()


def open_blank(what: str, split: str) -> Blank:
    """`what`: a number of classes, 0 for none, or "captions"; InputError for anything else."""
    check_split(split, ("train", "test"), f"blank:{what}")
    if what == "captions":
        return Blank(0, True)
    if not what.isdecimal():
        raise InputError(f"data.source: 'blank:{what}' must be blank:captions or blank:N with a number of classes")
    return Blank(int(what), False)
