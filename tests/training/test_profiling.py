"""The profile of a few steps."""

import logging

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.training.profiling import FIRST, STEPS, Profile


def test_it_tells_what_the_steps_between_spend_their_time_on(tmp_path, caplog):
    step = jax.jit(lambda x: jnp.tanh(x @ x) / 100.0)
    x, profile = jnp.ones((200, 200)), Profile(tmp_path / "profile", "denoiser")
    with caplog.at_level(logging.INFO, "ldm_jax"):
        for _ in range(FIRST + STEPS + 5):
            x = step(x)
            profile.after(x)
    profile.close()
    (line,) = caplog.messages
    assert line.startswith(f"denoiser: profile of {STEPS} steps")
    head, *rows, last = (tmp_path / "profile" / "denoiser.txt").read_text().splitlines()
    assert head.split() == ["ms", "a", "step", "share", "times", "operation"]
    kinds = {row.split()[-1]: row.split() for row in rows}
    # XLA's own name for a product of matrices, which differs among its versions.
    (product,) = (row for kind, row in kinds.items() if kind.startswith(("dot", "ynn", "onednn")))
    assert int(product[2]) == 1  # one a step: the steps before and after the trace don't count
    assert last.split()[-1] == "all" and sum(float(row[0]) for row in kinds.values()) == pytest.approx(
        float(last.split()[0]), abs=0.05
    )
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_run_that_is_too_short_says_so(tmp_path, caplog):
    profile = Profile(tmp_path / "profile", "denoiser")
    profile.after(jnp.zeros(()))
    profile.close()
    assert "it made 1 steps" in caplog.text and not (tmp_path / "profile").exists()
