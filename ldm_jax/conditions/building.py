"""What conditions are built from, and what their configs have in common."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from ldm_jax.conditions.base import Condition
from ldm_jax.errors import InputError


class Given(NamedTuple):
    """What the data and the latents decide."""

    class_names: tuple[str, ...]
    captions: bool
    example: tuple[int, ...]
    """Shape [*space c] of a training example."""
    latent: tuple[int, ...]
    """Shape [*space c] of its latents."""


@runtime_checkable
class ConditionConfig(Protocol):
    """A condition's section of an experiment: a frozen dataclass."""

    label: ClassVar[str]
    """Its name, of which a model has one."""

    @property
    def dropout(self) -> float: ...
    def build(self, given: Given) -> Condition | None:
        """The condition for these data, None where it has nothing to say; InputError where that can't be."""
        ...


def check_dropout(name: str, dropout: float) -> None:
    """InputError where it is no share."""
    if not 0.0 <= dropout <= 1.0:
        raise InputError(f"conditions.{name}.dropout: {dropout} must be between 0 and 1")
