"""How far a long task is."""

import io
import sys
import time

import pytest

from ldm_jax import progress


class Clock:
    """A clock that is told what time it is."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_without_a_terminal_a_line_a_minute(clock, capfd):
    for _ in progress.track(range(10), "drawing", 10, "batch"):
        clock.now += 25.0
    lines = capfd.readouterr().err.splitlines()
    # At 75, 150 and 225 s, a minute or more after the last.
    assert lines == [
        "drawing: 3 of 10, about 3 min left",
        "drawing: 6 of 10, about 2 min left",
        "drawing: 9 of 10, about 25 s left",
    ]


def test_what_is_short_says_nothing(capfd):
    assert list(progress.track(range(3), "drawing", 3)) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_line_after_two_seconds(monkeypatch):
    screens = []
    for delay in (progress.DELAY, 0.0):
        monkeypatch.setattr(progress, "DELAY", delay)
        monkeypatch.setattr(sys, "stderr", Terminal())
        list(progress.track(range(30), "drawing", 30))
        screens.append(sys.stderr.getvalue())
    assert screens[0] == ""
    assert screens[1].startswith("\rdrawing:   0%") and "\n" not in screens[1]


def test_a_terminal_isn_t_silent_while_nothing_gets_done(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.01)
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.progress("drawing", 3):
        time.sleep(0.3)
        assert "drawing:   0%" in sys.stderr.getvalue()


def test_durations():
    assert [progress.duration(s) for s in (7.0, 99.0, 100.0, 5990.0, 7200.0)] == [
        "7 s",
        "99 s",
        "2 min",
        "100 min",
        "2.0 h",
    ]
