"""Randomness as a function of what it is for: hashes instead of generators that carry a state."""

import numpy as np
from jaxtyping import UInt64


def mix(values: UInt64[np.ndarray, "*shape"], seed: int) -> UInt64[np.ndarray, "*shape"]:
    """A 64-bit hash of each value and the seed (the finaliser of SplitMix64): fixed for ever, on every machine."""
    with np.errstate(over="ignore"):
        x = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
        for _ in range(2):
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x


def fold(seed: int, purpose: int) -> int:
    """A 64-bit seed for one purpose."""
    return int(mix(np.array([purpose], np.uint64), seed)[0])
