"""What a run writes while it trains: metrics.jsonl, the boards, the progress bar."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from ldm_jax.files import whole, write_all
from ldm_jax.processes import main_process
from ldm_jax.training.boards import Board, TensorBoard
from ldm_jax.training.flops import peak_flops

Line = tuple[int, int, dict[str, Any]]
"""Where a line of metrics begins in its file, its step, its values."""


def keep_until(path: Path, stage: str, step: int) -> Line | None:
    """Drops a stage's lines after `step` (those of a run that was killed past its last checkpoint) and broken ones.

    Gives back the line of `step` where it is the last that is left.
    """
    if not path.exists():
        return None
    kept, last = [], {}
    for line in path.read_text().split("\n"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("stage") != stage or record.get("step", 0) <= step:
            kept.append(line + "\n")
            last = record
    with whole(path) as temporary:
        temporary.write_text("".join(kept))
    if (last.pop("stage", None), last.pop("step", None)) != (stage, step):
        return None
    return sum(len(line.encode()) for line in kept[:-1]), step, last


def _at_end(path: Path) -> io.FileIO:
    """A file that is written at any place, unbuffered, from its end on."""
    path.touch()
    file = path.open("r+b", buffering=0)
    file.seek(0, os.SEEK_END)
    return file


class Record:
    """One stage's record. On a terminal it shows a bar, elsewhere a line every ten seconds."""

    def __init__(self, workdir: Path, stage: str, start: int, stop: int, batch_size: int, boards: Sequence[Board] = ()):
        """boards: what shows it besides TensorBoard; they outlive the stage."""
        self.stage, self.batch_size = stage, batch_size
        self.flops = 0.0
        """Of one device in a step, for the rates that are recorded; 0: unknown."""
        self._main = main_process()
        self._last = keep_until(workdir / "metrics.jsonl", stage, start) if self._main else None
        self._file = _at_end(workdir / "metrics.jsonl") if self._main else None
        self._own = TensorBoard(workdir / "tensorboard" / stage, start) if self._main else None
        self._boards = (self._own, *boards) if self._own is not None else ()
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=stop,
            initial=start,
            desc=stage,
            unit="step",
            disable=not (terminal and self._main),
            dynamic_ncols=True,
        )
        self._plain = self._main and not terminal
        self._last_line = 0.0
        self._since, self._since_step = time.monotonic(), start
        self._stop = stop

    def tick(self) -> None:
        """One step was dispatched."""
        self._bar.update()

    def images_per_second(self, step: int) -> float:
        """The rate since the last line."""
        elapsed = max(time.monotonic() - self._since, 1e-9)
        return (step - self._since_step) * self.batch_size / elapsed

    def write(self, step: int, values: dict[str, Any], rate: float) -> None:
        """One line of metrics; rate: images/s."""
        now = time.monotonic()
        if not self._main:
            return
        values = {**values, "images_per_second": rate}
        if self.flops:
            per_second = self.flops * rate / self.batch_size
            values["tflops_per_second"] = per_second / 1e12
            peak = peak_flops(jax.devices()[0].device_kind)
            values |= {"flops_utilization": per_second / peak} if peak else {}
        assert self._file is not None
        self._last = (self._file.tell(), step, values)
        self._line(step, values)
        for board in self._boards:
            board.write(self.stage, step, values)
        shown = {"loss": f"{values['loss']:.4f}", "img/s": f"{rate:.0f}"}
        self._bar.set_postfix(shown)
        if self._plain and (now - self._last_line > 10.0 or step == self._stop):
            self._last_line = now
            left = (self._stop - step) * self.batch_size / max(rate, 1e-9)
            text = ", ".join(f"{k} {v}" for k, v in shown.items())
            print(f"{self.stage} {step}/{self._stop}: {text}, {left:.0f} s left", flush=True)

    def add(self, values: Mapping[str, Any]) -> None:
        """What was found later about the step of the last line: the line is written over by a longer one."""
        if self._last is None or not values:
            return
        assert self._file is not None
        place, step, before = self._last
        self._file.seek(place)
        self._line(step, {**before, **values})
        for board in self._boards:
            board.write(self.stage, step, values)

    def picture(self, step: int, path: Path) -> None:
        """A PNG that was written after a step."""
        for board in self._boards:
            board.picture(self.stage, step, path)

    def restart(self, step: int) -> None:
        """The clock of the next rate starts now: what came between two steps is not training."""
        if self._last is not None and step == self._last[1]:
            self._since, self._since_step = time.monotonic(), step

    def _line(self, step: int, values: Mapping[str, Any]) -> None:
        assert self._file is not None
        # JSON has no NaN.
        shown = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
        # In one piece, so that a kill leaves the line or none.
        write_all(self._file, (json.dumps({"stage": self.stage, "step": step, **shown}) + "\n").encode())

    def close(self) -> None:
        self._bar.close()
        if self._file is not None and self._own is not None:
            self._file.close()
            self._own.close()
