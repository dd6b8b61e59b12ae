"""Every bit of a seed counts."""

import jax
import numpy as np
import pytest

from ldm_jax.errors import InputError
from ldm_jax.seeds import key


def test_small_seeds_are_jax_s_own():
    for seed in (0, 5, 2**31, 2**32 - 1):
        assert (jax.random.key_data(key(seed)) == jax.random.key_data(jax.random.key(seed))).all()


def test_every_bit_counts():
    seeds = [0, *(2**bit for bit in range(64)), *(2**64 - 1 - 2**bit for bit in range(64))]
    assert len({jax.random.key_data(key(seed)).tobytes() for seed in seeds}) == len(seeds)
    assert np.asarray(jax.random.key_data(key(2**32 + 5))).tolist() == [1, 5]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_longer_ones_are_refused(seed):
    with pytest.raises(InputError, match=f"seed: {seed} must be between 0 and 18446744073709551615"):
        key(seed)
