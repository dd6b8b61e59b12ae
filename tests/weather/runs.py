"""Real processes that train `tiny.py`: started, killed at a time or at a file operation, started again."""

import os
import subprocess
import sys

import numpy as np

from tests.conftest import QUICK, ROOT, own_cache

KILLED = """
import os, signal, sys
folder, count, log, *args = sys.argv[1:]
left, found = int(count), []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def hook(event, details):
    global left
    if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
        return
    if event == "open" and not (isinstance(details[2], int) and details[2] & WRITES):
        return
    paths = [os.fsdecode(p) for p in details if isinstance(p, (str, bytes))]
    if not any(path.startswith(folder) for path in paths):
        return
    found.append(f"{event} {paths[0].removeprefix(folder)}")
    left -= 1
    if left == 0:
        with open(log, "a") as file:
            print(found[-1], file=file)
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
from ldm_jax.cli import main
code = main(["train", *args])
with open(log, "a") as file:
    print(*found, sep="\\n", file=file)
sys.exit(code)
"""
"""Ends itself by SIGKILL right before its count-th operation on files of a folder (0: never), and logs which it was."""


def environment():
    """One device, as a laptop has it, and one compilation cache for all of a test's processes."""
    return os.environ | own_cache("weather") | {"XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu"}


def start(workdir, data, *args, kill_at=None, log=None):
    """A process that trains; with kill_at one that ends itself there (see KILLED)."""
    options = ["tests/weather/tiny.py", "--data.source", f"npz:{data}", "--workdir", str(workdir), *args]
    command = ["train.py"] if kill_at is None else ["-c", KILLED, str(workdir), str(kill_at), str(log)]
    return subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=600):
    """(exit code, stdout, stderr)"""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def images(path):
    """Forty noisy pictures of four classes."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(40) % 4)
    return path


def weights(workdir):
    """The finished model's bytes, by part."""
    return {p.parent.name: p.read_bytes() for p in sorted((workdir / "model").rglob("*.safetensors"))}


def half_written(workdir):
    """What no finished run may leave behind."""
    return [p for p in workdir.rglob("*") if p.suffix == ".tmp" or "checkpoint-tmp" in p.name]
