"""Seeds, whole numbers of 64 bits, all of which count; and keys made of keys."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array

from ldm_jax.errors import InputError

LARGEST = 2**64 - 1


def check_seed(seed: int) -> int:
    """The seed; InputError unless it is between 0 and 2^64 - 1."""
    if not 0 <= seed <= LARGEST:
        raise InputError(f"seed: {seed} must be between 0 and {LARGEST}")
    return seed


def key(seed: int) -> Array:
    """The key of a seed from 0 to 2^64 - 1; below 2^32 it is `jax.random.key(seed)`.

    JAX itself keeps the lower 32 bits of a seed alone, unless its 64-bit types are switched on.
    """
    with jax.enable_x64(True):
        return jax.random.key(np.uint64(check_seed(seed)))


def folded(keys: Array, number: int | Array) -> Array:
    """Other keys [b], each a function of one of `keys` [b] and the number."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
