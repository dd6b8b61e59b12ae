"""Which example goes where: a pure function of (seed, step), shared by the loader and by users of cached arrays."""

import functools

import grain
import numpy as np
from jaxtyping import Bool, Int

from ldm_jax.data.hashing import fold, mix

SHUFFLE, FLIP = 1, 2  # purposes: the same seed must not make the shuffle and the flips depend on each other


@functools.lru_cache(maxsize=64)
def shuffled(n: int, seed: int) -> grain.MapDataset:
    """The endless stream of example indices: every run of n from a multiple of n is a new permutation of 0..n-1."""
    # Grain adds the epoch to the seed: unhashed, seed 1 would start with the second epoch of seed 0.
    return grain.MapDataset.range(n).shuffle(seed=fold(seed, SHUFFLE) % 2**32).repeat()


def order(
    n: int, batch_size: int, seed: int, step: int, *, process_index: int = 0, process_count: int = 1
) -> tuple[Int[np.ndarray, " b"], Bool[np.ndarray, " b"]]:
    """Which of n examples make up batch `step`, and which of them are flipped where flips are on.

    The examples come from one endless stream, shuffled anew each epoch; batch k is positions k * batch_size and on, so
    a batch may straddle two epochs. With several processes, process p gets rows p * batch_size / process_count and on.

    Returns:
      (example indices int64 [b], flipped bool [b]), where b = batch_size / process_count.
    """
    b = batch_size // process_count
    positions = np.arange(b) + step * batch_size + process_index * b
    stream = shuffled(n, seed)
    examples = np.array([stream[position] for position in positions.tolist()], np.int64)
    flipped = mix(positions.astype(np.uint64), fold(seed, FLIP)) >> np.uint64(63) == 1
    return examples, flipped
