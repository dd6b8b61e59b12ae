"""Classification by the denoiser alone: the class whose noise prediction errs least.

Li et al. 2023 (arXiv 2303.16203), algorithm 2; Clark and Jaini 2023 (arXiv 2303.15233), section 2.2. Times and noise
are the same for all classes of an image, which takes most of the variance out of their differences; classes that are
far behind after a round are evaluated no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ldm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rounds:
    """How many times each class is tried, and how many classes are left afterwards."""

    samples: tuple[int, ...] = (8, 16, 32)
    """Times and noises of each round."""
    kept: tuple[int, ...] = (4, 2)
    """Classes that go on to the next round."""

    def __post_init__(self) -> None:
        if not self.samples or min(self.samples) < 1 or len(self.kept) != len(self.samples) - 1:
            raise InputError(f"rounds: {self.samples} must be numbers of at least 1, one more than kept ({self.kept})")
        if list(self.kept) != sorted(self.kept, reverse=True) or min(self.kept, default=1) < 1:
            raise InputError(f"rounds.kept: {self.kept} must fall and be at least 1")


class Classified(NamedTuple):
    """What a classifier says of n images."""

    labels: Int[np.ndarray, "n"]
    """The class of least error."""
    errors: Float[np.ndarray, "n k"]
    """The mean error of each class, over as many times as it was tried."""
    evaluations: int
    """Evaluations of the network for each image."""


Errors = Callable[[Int[np.ndarray, "n r"], Float[np.ndarray, "s"], int], Float[np.ndarray, "n r"]]
"""(classes of each image, times, number of the first) -> errors summed over these times."""


def times(count: int, begin: int = 0) -> Float[np.ndarray, "count"]:
    """Points begin to begin + count of a sequence that fills (0, 1) evenly (van der Corput, base 2)."""
    found = np.zeros(count)
    for i in range(count):
        n, base = begin + i + 1, 0.5
        while n:
            found[i] += base * (n & 1)
            n, base = n >> 1, base / 2
    return found


def classify(errors: Errors, images: int, classes: int, rounds: Rounds) -> Classified:
    """The class of each of so many images, by rounds."""
    total = np.zeros((images, classes))
    tried = np.zeros((images, classes), np.int64)
    alive = np.tile(np.arange(classes), (images, 1))
    begin, evaluations = 0, 0
    for i, count in enumerate(rounds.samples):
        found = errors(alive, times(count, begin), begin)
        np.put_along_axis(total, alive, np.take_along_axis(total, alive, 1) + found, 1)
        np.put_along_axis(tried, alive, np.take_along_axis(tried, alive, 1) + count, 1)
        begin, evaluations = begin + count, evaluations + count * alive.shape[1]
        if i < len(rounds.kept):
            mean = np.take_along_axis(total / np.maximum(tried, 1), alive, 1)
            best = np.argsort(mean, axis=1, kind="stable")[:, : rounds.kept[i]]
            alive = np.take_along_axis(alive, best, 1)
    mean = total / np.maximum(tried, 1)
    best = np.argmin(np.take_along_axis(mean, alive, 1), axis=1)
    return Classified(np.take_along_axis(alive, best[:, None], 1)[:, 0], mean, evaluations)
