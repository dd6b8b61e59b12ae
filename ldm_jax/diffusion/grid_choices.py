"""Every named grid as a choice of an experiment, with its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Union

from ldm_jax.choices import choice
from ldm_jax.diffusion import grids
from ldm_jax.diffusion.schedules import DiscreteBetas, Schedule


def _plain(label: str, function: Any) -> type:
    """A grid that does not ask for the schedule; tables are visited by their own rows."""

    def make(self: Any, schedule: Schedule, steps: int) -> grids.Grid:
        size = {"total": schedule.size} if "total" in self.options() and isinstance(schedule, DiscreteBetas) else {}
        return function(steps, **{**self.options(), **size})

    return choice(label, function, ("steps",), make=make)


def _levels(label: str, function: Any) -> type:
    def make(self: Any, schedule: Schedule, steps: int) -> grids.Grid:
        return function(schedule, steps, **self.options())

    return choice(label, function, ("schedule", "steps"), make=make)


def shifted_linspace(steps: int, s: float = 3.0, start: float = 1.0, end: float = 0.0) -> grids.Grid:
    """Equally spaced times moved towards the noise, t' = s t / (1 + (s - 1) t): `grids.shifted` of `grids.linspace`.

    s: how far; 1 leaves them where they are.
    """
    return grids.shifted(grids.linspace(steps, start, end), s)


GRID_CHOICES: dict[str, type] = {
    **{name: _plain(name, getattr(grids, name)) for name in ("linspace", "leading", "trailing", "flow")},
    "shifted": _plain("shifted", shifted_linspace),
    **{name: _levels(name, getattr(grids, name)) for name in ("karras", "exponential", "lu", "beta", "ays")},
}
"""By name; each has the grid's options as fields and `make(schedule, steps) -> grid`."""

Linspace = GRID_CHOICES["linspace"]

if TYPE_CHECKING:
    GridChoice: TypeAlias = Any
else:
    GridChoice = Union[tuple(GRID_CHOICES.values())]  # noqa: UP007 (made of a tuple)
