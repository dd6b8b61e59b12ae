"""Examples that a stage is judged by while it trains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ldm_jax.data import Loader, Source, Subset

MOST = 256
"""Examples at most."""


class HeldOut(NamedTuple):
    """Examples, and what numbers of them are called: test_ where training does not see them, otherwise train_."""

    loader: Loader
    prefix: str

    def images(self) -> np.ndarray:
        """All of them, float32 [n *space c] in [-1, 1]."""
        _, images, valid = next(self.loader.in_order(len(self.loader.source)))
        return images[:valid]


def held_out(loader: Loader, test: Source | None) -> HeldOut:
    """Up to MOST examples of `test`, or of the training set where there is no test set."""
    source = Subset.evenly(loader.source if test is None else test, MOST)
    alike = Loader(source, batch_size=1, image_size=loader.image_size, channels=loader.channels, seed=0)
    return HeldOut(alike, "train_" if test is None else "test_")
