"""How far a long task is: one line with the time left on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

DELAY = 2.0
"""Seconds before anything is shown on a terminal: what is shorter is not worth a line."""
TICK = 1.0
"""Seconds between changes of the line while nothing gets done."""
INTERVAL = 60.0
"""Seconds between lines where stderr is no terminal."""


class Progress:
    """How much of `total` is done; see `progress`."""

    def __init__(self, title: str, total: int, unit: str):
        terminal = sys.stderr.isatty()
        self._title, self._total, self._done, self._plain = title, total, 0, not terminal
        self._bar = tqdm(
            total=total,
            desc=title,
            unit=unit,
            unit_scale=total > 100_000,
            delay=DELAY,
            leave=False,
            disable=not terminal,
            dynamic_ncols=True,
        )
        self._start = self._last = time.monotonic()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True) if terminal else None
        if self._ticker is not None:
            self._ticker.start()

    def update(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._plain and now - self._last >= INTERVAL:
            self._last = now
            left = (now - self._start) / self._done * max(self._total - self._done, 0) if self._done else 0.0
            done = f"{self._title}: {self._done:,} of {self._total:,}, about {duration(left)} left"
            print(done, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Takes the line off the terminal."""
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
        self._bar.close()

    def _tick(self) -> None:
        # A first batch is compiled, and may take minutes, before it counts.
        pause = DELAY
        while not self._ended.wait(pause):
            self._bar.refresh()
            pause = TICK


@contextmanager
def progress(title: str, total: int, unit: str = "image") -> Iterator[Progress]:
    """Shows how far a task of `total` units is while the block runs and calls `update`."""
    shown = Progress(title, total, unit)
    try:
        yield shown
    finally:
        shown.close()


def track(items: Iterable[T], title: str, total: int, unit: str = "image") -> Iterator[T]:
    """The items, one after the other; each counts when the next is asked for."""
    with progress(title, total, unit) as shown:
        for item in items:
            yield item
            shown.update()


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
