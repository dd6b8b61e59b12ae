"""Slow: the quickstart as the README gives it, judged by a classifier and by distances to the training images."""

import importlib.util
import os
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT


def benchmark():
    spec = importlib.util.spec_from_file_location("quickstart_benchmark", ROOT / "benchmarks" / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_quickstart_draws_what_was_asked_for_and_copies_nothing(tmp_path):
    # Minutes of training: full speed, one device.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    started = time.monotonic()
    command = [sys.executable, "train.py", "configs/quickstart.py", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"trained in {time.monotonic() - started:.0f} s")
    figures = benchmark().measure(tmp_path / "run", num=2000)
    print(figures)
    assert figures["accuracy"] >= 0.85
    samples, test, rebuilt = (figures["nearest"][k] for k in ("samples", "test", "reconstructions"))
    # Copies would pull the low quantiles towards 0; noise would push the high ones away. The decoder's blur brings any
    # image nearer to the training set, so reconstructions of unseen images bound from below what is to be expected.
    assert samples[0] >= 0.75 * min(test[0], rebuilt[0])
    for sample, lower, upper in zip(samples, rebuilt, test, strict=True):
        assert 0.75 * min(lower, upper) <= sample <= 1.25 * max(lower, upper)
