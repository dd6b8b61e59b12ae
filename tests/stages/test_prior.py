"""Batches of two sources: how many of each, which, and what their losses weigh."""

import jax
import numpy as np
import pytest

from ldm_jax.cache import ConditionCache, Latents
from ldm_jax.errors import InputError
from ldm_jax.stages import Prior
from ldm_jax.stages.prior import Cached, mixed_batch, prior_rows

OWN, OTHER, BATCH = 7, 5, 8


def cached(n, first, seed):
    """Latents and a condition that say which example of which source it is."""
    numbers = np.arange(first, first + n)
    moments = np.broadcast_to(numbers.astype(np.float32)[:, None, None, None, None], (n, 1, 2, 2, 2)).copy()
    told = ConditionCache(np.arange(n, dtype=np.int32)[:, None], np.ones(n, np.int32), {"number": numbers})
    return Cached(Latents(moments, np.zeros(1, np.float32), np.ones(1, np.float32)), {"x": told}, seed)


SOURCES = cached(OWN, 0, 3), cached(OTHER, 100, 4)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_rows_are_spread_and_take_turns(count):
    every = np.stack([prior_rows(BATCH, count, step) for step in range(BATCH)])
    assert (every.sum(axis=1) == count).all()
    # Over a round of steps each row is the prior's as often.
    assert (every.sum(axis=0) == count).all()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_batches(share):
    settings = Prior("x", weight=2.0, share=share)
    count = settings.rows(BATCH)
    seen = {"own": [], "other": []}
    for step in range(21):
        batch = mixed_batch(*SOURCES, settings, BATCH, step, 0, 1)
        number = batch["conditions"]["x"]["number"]
        np.testing.assert_array_equal(batch["mean"][:, 0, 0, 0], number.astype(np.float32))
        np.testing.assert_array_equal(batch["index"], np.arange(BATCH))
        np.testing.assert_array_equal(number >= 100, prior_rows(BATCH, count, step))
        seen["own"] += number[number < 100].tolist()
        seen["other"] += number[number >= 100].tolist()
        # Eq. 2: the mean over the batch is E[own] + 2 E[prior].
        for chosen, factor in ((number < 100, 1.0), (number >= 100, 2.0)):
            np.testing.assert_allclose((batch["weight"] * chosen).mean(), factor, rtol=1e-6)
        parts = [mixed_batch(*SOURCES, settings, BATCH, step, p, 4) for p in range(4)]
        jax.tree.map(np.testing.assert_array_equal, batch, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
    # Every example of each source once an epoch.
    for name, n in (("own", OWN), ("other", OTHER)):
        epochs = len(seen[name]) // n
        for epoch in range(epochs):
            assert len(set(seen[name][epoch * n : (epoch + 1) * n])) == n


def test_what_can_be_no_share():
    for fields, message in (({"share": 0.0}, "share: 0.0"), ({"share": 1.0}, "share: 1.0"), ({"weight": -1.0}, "-1.0")):
        with pytest.raises(InputError, match=message):
            Prior(**fields)
    with pytest.raises(InputError, match=r"0.1 of data.batch_size 4 must leave at least one"):
        Prior(share=0.1).rows(4)
