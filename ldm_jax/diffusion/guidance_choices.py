"""The rules of guidance as choices of an experiment; the scale is given apart, for it may be traced."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from ldm_jax.choices import choice
from ldm_jax.diffusion import guidance
from ldm_jax.diffusion.guidance import Pair, Scale
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.errors import InputError

LARGEST = sys.float_info.max
RANGES: dict[str, tuple[str, float, float]] = {
    "rescale": ("in [0, 1]", 0.0, 1.0),
    "zero_init": ("in [0, 1]", 0.0, 1.0),
    "eta": ("a finite number", -LARGEST, LARGEST),
    "norm_threshold": ("at least 0 (0: no threshold)", 0.0, LARGEST),
    "momentum": ("between -1 and 1", math.nextafter(-1.0, 0.0), math.nextafter(1.0, 0.0)),
}
"""What the rules' options must be, the least and the largest of it."""


def _check(self: Any) -> None:
    low, high = self.interval
    if not 0.0 <= low <= high <= 1.0:
        raise InputError(f"sampling.rule.interval: {self.interval} must be two rising times in [0, 1]")
    for name, value in self.options().items():
        what, least, most = RANGES.get(name, ("", value, value))
        if not least <= value <= most:
            raise InputError(f"sampling.rule.{name}: {value} must be {what}")


def _classifier_free(
    pair: Pair, scale: Scale, schedule: Schedule, interval: tuple[float, float] = (0.0, 1.0), rescale: float = 0.0
) -> Any:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

    interval: the times in which it acts. rescale: by how much, in [0, 1], the deviation is brought back.
    """
    return guidance.classifier_free(pair, scale, interval, rescale, schedule=schedule if rescale else None)


def _rule(label: str, function: Any) -> type:
    def make(self: Any, pair: Pair, schedule: Schedule, scale: Scale) -> Any:
        return function(pair, scale, schedule=schedule, **self.options())

    return choice(label, function, ("pair", "scale", "schedule"), make=make, __post_init__=_check)


GUIDANCE_CHOICES: dict[str, type] = {
    "classifier_free": _rule("classifier_free", _classifier_free),
    "cfg_zero_star": _rule("cfg_zero_star", guidance.cfg_zero_star),
    "apg": _rule("apg", guidance.apg),
}
"""By name; each has the rule's options as fields and `make(pair, schedule, scale) -> denoise`."""

ClassifierFree = GUIDANCE_CHOICES["classifier_free"]

if TYPE_CHECKING:
    GuidanceChoice: TypeAlias = Any
else:
    GuidanceChoice = Union[tuple(GUIDANCE_CHOICES.values())]  # noqa: UP007 (made of a tuple)
