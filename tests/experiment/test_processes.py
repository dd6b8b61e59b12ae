"""Several processes train what one does; they meet at a port of this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from ldm_jax import cli
from ldm_jax.errors import InputError
from ldm_jax.processes import join
from tests.conftest import ROOT, own_cache

FEW = ["--smoke", "--data.limit", "64", "--autoencoder-training.steps", "6", "--denoiser-training.steps", "6"]


def begin(workdir, processes, *more, devices=4):
    """Starts train.py in so many processes of `devices` / `processes` devices each."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices // processes}")
    command = [sys.executable, "train.py", "configs/quickstart.py", "--workdir", str(workdir), *FEW, *more]
    started = []
    for i in range(processes):
        # Each with compiled programs of its own: JAX writes their files in place.
        cache = own_cache(f"process-{i}-of-{processes}")
        where = ["--distributed", f"localhost:{port},{processes},{i}"] if processes > 1 else []
        started.append(
            subprocess.Popen(
                [*command, *where],
                cwd=ROOT,
                env={**os.environ, **cache, "XLA_FLAGS": flags},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def ended(processes):
    """(exit code, output) of each."""
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    """Both stages, latents encoded by halves, one record and one model."""
    (first, second), (alone,) = (ended(begin(tmp_path / str(n), n)) for n in (2, 1))
    assert first[0] == second[0] == alone[0] == 0, first[1] + second[1] + alone[1]
    assert "model:" in first[1] and "model:" not in second[1]
    assert len(losses(tmp_path / "2")) == 12
    np.testing.assert_allclose(losses(tmp_path / "2"), losses(tmp_path / "1"), rtol=1e-5)
    assert sorted(path.name for path in (tmp_path / "2" / "latents").glob("moments*")) == [
        "moments-0.npy",
        "moments-1.npy",
    ]
    files = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n / "model").rglob("*.*")) for n in ("1", "2")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_fsdp_over_processes_stops_together_and_goes_on_alone(tmp_path):
    """One of two processes gets a signal, both save and end; a single one finishes the run."""
    many = ["--autoencoder-training.steps", "4000", "--parallel", "fsdp"]
    pair = begin(tmp_path / "run", 2, *many)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline and all(process.poll() is None for process in pair)
        time.sleep(0.2)
    pair[1].send_signal(signal.SIGTERM)
    for code, output in ended(pair):
        assert code == 3 and "stopped at step" in output
    saved = max(int(path.name) for path in (tmp_path / "run" / "autoencoder").glob("[0-9]*"))
    more = ["--autoencoder-training.steps", str(saved + 2), "--parallel", "fsdp"]
    ((code, output),) = ended(begin(tmp_path / "run", 1, *more))
    assert code == 0 and f"resuming at step {saved}" in output
    assert len(losses(tmp_path / "run")) == saved + 2 + 6


@pytest.mark.parametrize("spec", ["localhost", "localhost:1,2", "localhost:1,2,2", "localhost:1,x,0", "a,2,0"])
def test_wrong_addresses(spec, capsys):
    with pytest.raises(InputError, match="must be HOST:PORT,PROCESSES,INDEX"):
        join(spec)
    assert cli.run("train", ["configs/quickstart.py", "--distributed", spec]) == 2
    assert capsys.readouterr().err.startswith("train: error: distributed: ")
