"""Averages by powers of the step: their weights are the profile's, and snapshots give one of any length."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.errors import InputError
from ldm_jax.training.averages import (
    LONGEST,
    Profiles,
    averaged,
    combination,
    exponent,
    read_snapshots,
    rebuild,
    write_snapshots,
)
from ldm_jax.training.step import started, train_step

STEPS = 2000
LENGTHS = (0.05, 0.1)


@pytest.mark.parametrize("length", [0.001, 0.05, 0.1, 0.25, LONGEST])
def test_the_profiles_width_is_the_length(length):
    """By integration of x^gamma (gamma + 1) over [0, 1]."""
    gamma = exponent(length)
    edges = 1.0 - np.geomspace(1e-7, 1.0, 200_001)[::-1]
    x, dx = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    p = (gamma + 1.0) * x**gamma * dx
    mean = (p * x).sum() / p.sum()
    np.testing.assert_allclose(np.sqrt((p * (x - mean) ** 2).sum() / p.sum()), length, rtol=1e-3)
    if length == 0.1:
        np.testing.assert_allclose(gamma, 6.94, atol=5e-3)  # section 3.1 of the paper


def walk():
    """Parameters [steps 50] that drift and jitter, as in training."""
    rng = np.random.default_rng(0)
    drift = np.cumsum(rng.standard_normal((STEPS, 50)) / np.sqrt(np.arange(1, STEPS + 1))[:, None], 0)
    return (drift + rng.standard_normal((STEPS, 50))).astype(np.float32)


def profile(length, step):
    """Weights of the parameters of steps 1 ... `step`, by the definition."""
    edges = np.arange(step + 1) / step
    return np.diff(edges ** (exponent(length) + 1.0))


@pytest.fixture(scope="module")
def tracked():
    """{length: the average after every step}, by the function that training calls."""
    values, found = walk(), {}
    for length in (*LENGTHS, 0.02, 0.03, 0.07, 0.15, 0.25):
        gamma = exponent(length)

        def step(average, at, gamma=gamma):
            average = averaged(average, at[0], gamma, at[1])
            return average, average

        found[length] = jax.lax.scan(step, jnp.zeros(50), (values, jnp.arange(1, STEPS + 1)))[1]
    return found


def test_what_is_tracked_is_the_profile(tracked):
    for length, averages in tracked.items():
        for step in (1, 2, 10, STEPS):
            expected = profile(length, step) @ walk()[:step]
            np.testing.assert_allclose(averages[step - 1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [0.02, 0.03, 0.05, 0.07, 0.15, 0.25])
def test_rebuilt_to_one_percent(length, tracked, tmp_path):
    """Twenty snapshots of two lengths give shorter and longer ones, too; ten are too few for the outer ones."""
    for step in range(100, STEPS + 1, 100):
        write_snapshots(tmp_path, step, LENGTHS, [{"a": {"w": tracked[one][step - 1]}} for one in LENGTHS])
    assert len(read_snapshots(tmp_path)) == 40
    for step in (1000, STEPS) if 0.02 < length < 0.2 else (STEPS,):
        found = rebuild(tmp_path, length, None if step == STEPS else step)["a"]["w"]
        expected = tracked[length][step - 1]
        assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_a_snapshot_is_its_own_best_combination():
    weights = combination([(0.05, 500), (0.1, 500), (0.05, 1000), (0.1, 1000)], 0.1, 1000)
    np.testing.assert_allclose(weights, [0, 0, 0, 1], atol=1e-6)


def test_a_step_tracks_what_it_made_even_if_it_was_skipped():
    def loss(params, batch, keys, context):
        return jnp.square(params["w"][None] - batch["x"]).sum(-1), {}

    lengths, optimizer = LENGTHS, optax.sgd(0.3)
    gammas = tuple(map(exponent, lengths))
    state, seen = started({"w": jnp.zeros(3)}, optimizer, 2), []
    for x in (1.0, 2.0, jnp.nan, 4.0):
        batch = {"x": jnp.full((2, 3), x), "index": jnp.arange(2)}
        state, _ = train_step(
            state, batch, jax.random.key(0), loss_fn=loss, optimizer=optimizer, ema=0.9, gammas=gammas
        )
        seen.append(np.asarray(state.params["w"]))
    np.testing.assert_array_equal(seen[1], seen[2])
    for length, average in zip(lengths, state.averages, strict=True):
        np.testing.assert_allclose(average["w"], profile(length, 4) @ np.stack(seen), rtol=1e-5)


def test_wrong_settings(tmp_path):
    for build, message in (
        (lambda: Profiles(()), "lengths: .* must be one or more different numbers"),
        (lambda: Profiles((0.1, 0.1)), "different numbers"),
        (lambda: Profiles((0.3,)), "lengths: 0.3 must be more than 0 and at most 0.28"),
        (lambda: Profiles((float("nan"),)), "lengths: nan"),
        (lambda: Profiles(every=0), "every: 0 must be at least 1"),
        (lambda: rebuild(tmp_path, 0.1), "has no snapshot"),
        (lambda: rebuild(tmp_path, 0.0), "length: 0.0"),
    ):
        with pytest.raises(InputError, match=message):
            build()
    write_snapshots(tmp_path, 5, (0.1,), [{"w": np.ones(2, np.float32)}])
    with pytest.raises(InputError, match="no snapshot of step 4; it has 5"):
        rebuild(tmp_path, 0.1, 4)
