"""Whether samples are copies of training images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from ldm_jax.errors import InputError
from ldm_jax.metrics.manifold import nearest


class Memorization(NamedTuple):
    """What `memorization` finds; distances are in the features' own units."""

    copies: float
    """Share of samples that are three times as near to one training image as to any other."""
    copies_test: float
    """The same share of test images: what chance, or duplicates between the splits, would give."""
    distance: float
    """Median distance of a sample to its nearest training image."""
    distance_test: float
    """That of a test image."""
    z: float
    """How much nearer samples are than test images, as a Mann-Whitney z score: below about -3 they are too near."""


def memorization(
    samples: Shaped[np.ndarray, "n d"],
    train: Shaped[np.ndarray, "m d"],
    test: Shaped[np.ndarray, "k d"],
    ratio: float = 1 / 3,
) -> Memorization:
    """Nearest-neighbour tests of `samples` against the training set, calibrated by `test`, which training never saw.

    copies: the ratio test, distance to the nearest training image under `ratio` of that to the second nearest (Yoon et
    al. 2023, Diffusion Probabilistic Models Generalize when They Fail to Memorize). z: the data-copying test of Meehan,
    Chaudhuri and Dasgupta 2020 (arXiv 2004.05675), without its cells: samples' distances against the test set's.

    Raises:
      InputError: there are fewer than two training images, or the features are not finite numbers of one length.
    """
    from scipy import stats  # slow to import

    if not 0.0 < ratio < 1.0:
        raise InputError(f"ratio: {ratio!r} must be between 0 and 1")
    to_train, to_train_test = nearest(samples, train, 2).distance, nearest(test, train, 2).distance

    def copied(distance: np.ndarray) -> float:
        # Not strictly: an exact copy of an image that the training set holds twice has distances 0 and 0.
        return float((distance[:, 0] <= ratio * distance[:, 1]).mean())

    a, b = to_train[:, 0], to_train_test[:, 0]
    u = stats.mannwhitneyu(a, b).statistic
    n, m = len(a), len(b)
    z = (u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    return Memorization(copied(to_train), copied(to_train_test), float(np.median(a)), float(np.median(b)), float(z))
