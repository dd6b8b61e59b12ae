"""SIGKILL at random moments and before file operations: the restart ends in the weights of a run nobody disturbed.

`pytest -m slow -n 0 tests/weather` runs it, with LDM_JAX_KILLS kills of each kind (20).
"""

import json
import os
import random
import signal
import subprocess

import pytest

from tests.weather.runs import finish, half_written, images, start, weights

KILLS = int(os.environ.get("LDM_JAX_KILLS", "20"))
ROOMS = ("autoencoder", "latents", "conditions", "denoiser", "model")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(data, what it leaves, the file operations) of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    data = images(folder / "data.npz")
    code, _, err = finish(start(folder / "run", data, kill_at=0, log=folder / "log"))
    assert code == 0, err
    whole = left(folder / "run")
    assert len(whole[0]) == 2 and not half_written(folder / "run")
    for stage in ("autoencoder", "denoiser"):
        assert [line["step"] for line in whole[2] if line["stage"] == stage] == list(range(1, 13))
    return data, whole, (folder / "log").read_text().splitlines()


def left(workdir):
    """The weights, the pictures and all that metrics.jsonl tells but how fast it went."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in line.items() if not k.endswith("per_second")} for line in lines]
    return weights(workdir), {path.name: path.read_bytes() for path in (workdir / "samples").iterdir()}, told


def check(workdir, data, expected):
    """Starts the run once more; what it ends in."""
    code, _, err = finish(start(workdir, data))
    assert code == 0, err
    assert "Traceback" not in err
    for found, wanted in zip(left(workdir), expected, strict=True):
        assert found == wanted
    assert not half_written(workdir)
    for stage in ("autoencoder", "denoiser"):
        assert not list(workdir.glob(f"{stage}-damaged-*")), "a checkpoint that was never whole was taken for one"


def test_at_random_moments(alone, tmp_path):
    """Each process is killed some time after it began to train, until the run is finished; then a new run begins."""
    data, expected, _ = alone
    rng, killed, number = random.Random(0), 0, 0
    while killed < KILLS:
        workdir = tmp_path / str(number)
        process = start(workdir, data)
        try:
            # Imports take the first seconds; a run to the end is about three times as long.
            process.communicate(timeout=rng.uniform(6.0, 25.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
            continue
        assert process.returncode == 0
        check(workdir, data, expected)
        number += 1
    check(tmp_path / str(number), data, expected)


def moments(operations):
    """Which operations to die before: in each room one that gives a file its name, then others of all kinds."""
    rng = random.Random(1)
    kinds = {}
    for number, operation in enumerate(operations, 1):
        event, _, path = operation.partition(" ")
        room = next((part for part in path.split("/") if part), "")
        kinds.setdefault((event, room, "tmp" in path), []).append(number)
    chosen = [rng.choice(kinds.pop(("os.rename", room, True))) for room in ROOMS]
    others = [rng.choice(numbers) for numbers in kinds.values()]
    return sorted(chosen + rng.sample(others, min(max(KILLS - len(chosen), 0), len(others))))


def test_before_file_operations(alone, tmp_path):
    """While a checkpoint, the latents, the conditions, a picture, the model are written: dead before one operation."""
    data, expected, operations = alone
    for number in moments(operations):
        workdir = tmp_path / str(number)
        code, _, err = finish(start(workdir, data, kill_at=number, log=tmp_path / "log"))
        assert code in (-signal.SIGKILL, 0), err
        check(workdir, data, expected)
    died = (tmp_path / "log").read_text()
    assert all(f"os.rename /{room}/" in died for room in ROOMS), died
