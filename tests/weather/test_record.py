"""What a run writes while it trains, in hard weather: clocks that jump, a line that is added to, two processes."""

import json
import time

import pytest

from ldm_jax.errors import InputError
from ldm_jax.experiment.workdir import Lock
from ldm_jax.training.record import Record


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_clock_that_jumps_backwards(tmp_path, monkeypatch):
    hours = iter(range(10_000, 0, -1))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    record = Record(tmp_path, "denoiser", 0, 3, 8)
    for step in (1, 2, 3):
        record.tick()
        record.write(step, {"loss": 1.0}, record.images_per_second(step))
        record.restart(step)
    record.close()
    rates = [line["images_per_second"] for line in lines(tmp_path)]
    assert len(rates) == 3 and all(0.0 < rate < 1e12 for rate in rates)


def test_what_is_found_later_goes_into_the_same_line(tmp_path):
    record = Record(tmp_path, "denoiser", 0, 3, 8)
    record.write(1, {"loss": 1.0}, 5.0)
    record.write(2, {"loss": 0.5}, 5.0)
    before = lines(tmp_path)
    record.add({"test_loss": float("nan")})
    record.write(3, {"loss": 0.25}, 5.0)
    record.close()
    assert before[1]["step"] == 2
    assert lines(tmp_path)[1] == before[1] | {"test_loss": None}
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    # Continued from step 2, by another process.
    again = Record(tmp_path, "denoiser", 2, 3, 8)
    again.write(3, {"loss": 0.125}, 5.0)
    again.close()
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 0.5, 0.125]


def test_a_lock_names_its_holder_and_is_free_afterwards(tmp_path):
    with Lock(tmp_path), pytest.raises(InputError, match=r"is being trained by .*, process \d+; wait, or end it"):
        Lock(tmp_path).__enter__()
    with Lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
