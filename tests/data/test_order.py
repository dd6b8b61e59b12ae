import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_jax.data import order

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**63)


@given(n=SIZES, batch_size=SIZES, seed=SEEDS, epochs=st.integers(1, 4))
def test_each_epoch_is_a_permutation(n, batch_size, seed, epochs):
    steps = -(-n * epochs // batch_size)
    stream = np.concatenate([order(n, batch_size, seed, step)[0] for step in range(steps)])[: n * epochs]
    for epoch in stream.reshape(epochs, n):
        assert sorted(epoch.tolist()) == list(range(n))


@given(n=SIZES, per_process=SIZES, processes=st.integers(1, 6), seed=SEEDS, step=st.integers(0, 10**9))
def test_process_slices_concatenate_to_the_global_batch(n, per_process, processes, seed, step):
    batch_size = per_process * processes
    parts = [
        order(n, batch_size, seed, step, process_index=process, process_count=processes) for process in range(processes)
    ]
    for whole, slices in zip(order(n, batch_size, seed, step), zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(slices), whole)


@given(n=SIZES, seed=SEEDS, step=st.integers(0, 1000))
def test_the_stream_does_not_depend_on_the_batch_size(n, seed, step):
    large = order(n, 12, seed, step)
    small = [order(n, 4, seed, 3 * step + i) for i in range(3)]
    for i in range(2):
        np.testing.assert_array_equal(large[i], np.concatenate([part[i] for part in small]))


def test_order_never_changes():
    examples, flipped = order(1000, 8, 3, 200)
    assert examples.tolist() == EXAMPLES
    assert flipped.tolist() == FLIPPED


EXAMPLES = [327, 695, 481, 246, 626, 665, 268, 74]
FLIPPED = [False, False, True, True, True, True, False, True]


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 50}])
def test_epochs_and_seeds_are_shuffled_differently(other):
    examples, flipped = order(200, 200, 0, 0)
    examples_2, flipped_2 = order(200, 200, other.get("seed", 0), other.get("step", 0))
    # A random permutation has one fixed point in the mean.
    assert (examples == examples_2).sum() < 10
    assert 60 < (flipped == flipped_2).sum() < 140


def test_the_next_seed_is_not_the_next_epoch():
    assert order(200, 200, 0, 1)[0].tolist() != order(200, 200, 1, 0)[0].tolist()


def test_half_are_flipped_whatever_the_example():
    examples, flipped = order(10, 4000, 5, 0)
    for i in range(10):
        assert 0.4 < flipped[examples == i].mean() < 0.6
