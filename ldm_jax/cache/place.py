"""Where the examples of a batch are: the same for every cached array."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ldm_jax.data import choices, order


class Place(NamedTuple):
    """The examples of this process's rows of a global batch."""

    examples: Int[np.ndarray, " b"]
    flipped: Bool[np.ndarray, " b"]
    index: Int[np.ndarray, " b"]
    """int32, the place in the global batch."""
    choice: Int[np.ndarray, " b"]
    """uint64, random: which of an example's alternatives is taken."""

    def views(self, count: int) -> Int[np.ndarray, " b"]:
        """Which of `count` views of each example: 1 is the mirror image, where there is one."""
        return (self.flipped & (count == 2)).astype(np.int64)


def place_of(n: int, batch_size: int, seed: int, step: int, *, process_index: int = 0, process_count: int = 1) -> Place:
    """Batch `step` of n examples, in the loader's own order; a pure function of its arguments."""
    where = {"process_index": process_index, "process_count": process_count}
    examples, flipped = order(n, batch_size, seed, step, **where)
    index = np.arange(len(examples), dtype=np.int32) + np.int32(process_index * len(examples))
    return Place(examples, flipped, index, choices(batch_size, seed, step, **where))
