"""Every named sampler as a choice of an experiment, with its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Union

from ldm_jax.choices import choice
from ldm_jax.diffusion.samplers.base import Sampler
from ldm_jax.diffusion.samplers.table import SAMPLERS


def _choice(name: str) -> type:
    function = SAMPLERS[name]

    def make(self: Any) -> Sampler:
        return function(**self.options())

    return choice(name, function, make=make)


SAMPLER_CHOICES: dict[str, type] = {name: _choice(name) for name in SAMPLERS}
"""By name; each has the sampler's options as fields and `make() -> Sampler`."""

Euler = SAMPLER_CHOICES["euler"]

if TYPE_CHECKING:
    SamplerChoice: TypeAlias = Any
else:
    SamplerChoice = Union[tuple(SAMPLER_CHOICES.values())]  # noqa: UP007 (made of a tuple)
