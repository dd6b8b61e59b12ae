"""What conditions are built from, and what their configs have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from ldm_jax.conditions.base import Condition
from ldm_jax.errors import InputError


def where_found(name: str, find: Callable[[], Path]) -> Path:
    """The folder that `find` gives."""
    return find()


class Given(NamedTuple):
    """What the data and the latents decide."""

    class_names: tuple[str, ...]
    captions: Callable[[], Iterable[str]] | None
    """Reads the captions of all training examples; None where they have none."""
    example: tuple[int, ...]
    """Shape [*space c] of a training example."""
    latent: tuple[int, ...]
    """Shape [*space c] of its latents."""
    place: Callable[[str, Callable[[], Path]], Path] = where_found
    """Where the part of this name is read from: the run's own copy, or while there is none the folder that is found."""
    pairs: bool = False
    """Whether an image belongs to each example."""
    object_names: tuple[str, ...] = ()
    """What the objects in the examples may be; none where their places are not known."""


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


def picture_shape(name: str, given: Given) -> tuple[int, int, int]:
    """[h w c] of the examples; InputError where they are no pictures."""
    if len(given.example) != 3:
        raise InputError(f"conditions.{name}: examples {list(given.example)} must be pictures [h w c]")
    h, w, c = given.example
    return h, w, c


def check_dropout(name: str, dropout: float) -> None:
    """InputError where it is no share."""
    if not 0.0 <= dropout <= 1.0:
        raise InputError(f"conditions.{name}.dropout: {dropout} must be between 0 and 1")
