"""A profile of a few training steps: a trace for TensorBoard or Perfetto, and what the time goes to, in words."""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

log = logging.getLogger("ldm_jax")

FIRST, STEPS = 10, 3
"""Steps that pass before the trace, so that nothing compiles in it, and steps of the trace."""
SHOWN = 12
"""Kinds of operations of the table."""


class Profile:
    """Traces steps FIRST + 1 to FIRST + STEPS of those that this process makes."""

    def __init__(self, folder: Path, name: str):
        """folder: where the trace goes. name: of the stage."""
        self.folder, self.name = folder, name
        self._made = 0
        self._tracing = False

    def after(self, state: Any) -> None:
        """To be called after each step with what it gave, which is waited for where the trace begins and ends."""
        self._made += 1
        if self._made == FIRST:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self.folder))
            self._tracing = True
        elif self._made == FIRST + STEPS:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace and tells what it holds; without one it says why there is none."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            steps = self._made - FIRST
            lines = table(self.folder, steps)
            (self.folder / f"{self.name}.txt").write_text("\n".join(lines) + "\n")
            log.info("%s: profile of %d steps in %s\n%s", self.name, steps, self.folder, "\n".join(lines))
        elif self._made < FIRST:
            log.warning(
                "%s: no profile, it made %d steps and the first %d pass before it", self.name, self._made, FIRST
            )


def table(folder: Path, steps: int) -> list[str]:
    """The kinds of operations that took most of the time of the newest trace in `folder`, milliseconds a step.

    They are summed over the threads or streams that ran them, so that their sum may exceed the time that passed.
    """
    times, counts = Counter[str](), Counter[str]()
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    with warnings.catch_warnings():
        # JAX 0.12's reader of profiles warns of its own types, and aborts where warnings are errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        for event in _events(newest):
            name = next((value for stat, value in event.stats if stat == "hlo_op"), None)
            if name is not None and not str(event.name).startswith("end: "):
                kind = re.sub(r"(\.\d+|\.clone|\.remat\d*)+$", "", str(name))
                times[kind] += event.duration_ns
                counts[kind] += 1
    total = sum(times.values())
    lines = [f"{'ms a step':>10} {'share':>6} {'times':>6}  operation"]
    for kind, nanoseconds in times.most_common(SHOWN):
        share, count = nanoseconds / total, counts[kind] / steps
        lines.append(f"{nanoseconds / steps / 1e6:10.2f} {share:6.1%} {count:6.0f}  {kind}")
    return [*lines, f"{total / steps / 1e6:10.2f} {1:6.1%} {sum(counts.values()) / steps:6.0f}  all"]


def _events(file: Path) -> Iterator[Any]:
    for plane in ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            yield from line.events
