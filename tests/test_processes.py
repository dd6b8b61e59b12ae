"""Real processes: killed, stopped, started again, on one device as a laptop has it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import QUICK, ROOT, own_cache

ARGS = ["configs/quickstart.py", "--smoke", "--data.limit", "64"]


def start(workdir, *args):
    env = os.environ | own_cache("processes") | {"XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error::DeprecationWarning:ldm_jax", "train.py", *ARGS, "--workdir", str(workdir)]
    return subprocess.Popen(
        [*command, *args], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, timeout=300):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def wait_for(workdir, stage, step, process, timeout=300):
    """Waits until the stage's metrics have reached the step."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        path = workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if any(f'"stage": "{stage}", "step": {step},' in line for line in lines):
            return
        time.sleep(0.005)
    pytest.fail(f"{stage} did not reach step {step}: {finish(process)}")


def weights(workdir):
    return {p.parent.name: p.read_bytes() for p in sorted((workdir / "model").rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that nobody disturbs, and what it printed."""
    workdir = tmp_path_factory.mktemp("alone")
    code, out, err = finish(start(workdir))
    assert code == 0, err
    assert f"samples: {workdir}" in out
    return workdir


@pytest.mark.slow
def test_killed_then_stopped_and_started_again_it_ends_the_same(alone, tmp_path):
    # Killed right after a checkpoint began (8); tests/weather/test_kill.py kills more often.
    process = start(tmp_path)
    wait_for(tmp_path, "autoencoder", 8, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # A signal in the second stage saves and exits with 3.
    process = start(tmp_path)
    wait_for(tmp_path, "denoiser", 3, process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 3
    assert "stopped at step" in err and "Traceback" not in err
    saved = [int(p.name) for p in (tmp_path / "denoiser").iterdir() if p.name.isdigit()]
    assert 3 <= max(saved) < 24
    code, _, err = finish(start(tmp_path))
    assert code == 0, err
    assert f"resuming at step {max(saved)}" in err
    assert len(weights(alone)) == 2
    assert weights(tmp_path) == weights(alone)
    for stage in ("autoencoder", "denoiser"):
        lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [x["step"] for x in lines if x["stage"] == stage] == list(range(1, 25))
