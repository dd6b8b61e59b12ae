"""Which example goes where: a pure function of (seed, step), shared by the loader and by users of cached arrays.

The permutations are made here and not by Grain's `shuffle`, which walks a cipher of 16 bits or more until it lands
inside the data set: 3 ms for each index of 10 examples, against microseconds for a whole batch.
"""

import functools

import numpy as np
from jaxtyping import Bool, Int, UInt64

from ldm_jax.data.hashing import fold, mix

# Purposes: the same seed must not make the shuffle, the flips and the choice of captions depend on each other.
SHUFFLE, FLIP, CHOICE = 1, 2, 3


@functools.lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The order of n examples in one epoch; shared, so not to be written to."""
    keys = mix(np.arange(n, dtype=np.uint64), fold(fold(seed, SHUFFLE), epoch))
    out = np.argsort(keys, kind="stable")
    out.flags.writeable = False
    return out


def order(
    n: int, batch_size: int, seed: int, step: int, *, process_index: int = 0, process_count: int = 1
) -> tuple[Int[np.ndarray, " b"], Bool[np.ndarray, " b"]]:
    """Which of n examples make up batch `step`, and which of them are flipped where flips are on.

    The examples come from one endless stream, shuffled anew each epoch; batch k is positions k * batch_size and on, so
    a batch may straddle epochs. With several processes, process p gets rows p * batch_size / process_count and on.

    Returns:
      (example indices int64 [b], flipped bool [b]), where b = batch_size / process_count.
    """
    b = batch_size // process_count
    positions = np.arange(b) + (step * batch_size + process_index * b)
    epochs, places = np.divmod(positions, n)
    examples = np.empty(b, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        examples[here] = permutation(n, seed, epoch)[places[here]]
    flipped = mix(positions.astype(np.uint64), fold(seed, FLIP)) >> np.uint64(63) == 1
    return examples, flipped


def choices(
    batch_size: int, seed: int, step: int, *, process_index: int = 0, process_count: int = 1
) -> UInt64[np.ndarray, " b"]:
    """A random number for each example of batch `step`: modulo how many captions it has, it tells which one is taken.

    An example has another position in the stream in each epoch, so in each epoch one of its captions is drawn anew.
    """
    b = batch_size // process_count
    positions = np.arange(b, dtype=np.uint64) + np.uint64(step * batch_size + process_index * b)
    return mix(positions, fold(seed, CHOICE))
