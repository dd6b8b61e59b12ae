"""What a condition is to the rest of the library, and how several become what one network is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning
from ldm_jax.seeds import folded

Arrays: TypeAlias = Mapping[str, Any]
"""Named arrays with one leading axis: of one example without it, of a batch [b ...]."""
Params: TypeAlias = Any


class Asked(NamedTuple):
    """What a user gave, as arrays [m ...], and what guidance leads away from (None: the condition's own null)."""

    arrays: Arrays
    null: Arrays | None = None


class Size(NamedTuple):
    """The latents that are to be drawn: their space axes and channels, and how much larger images are."""

    space: tuple[int, ...]
    channels: int
    factor: int

    @property
    def pixels(self) -> tuple[int, ...]:
        """The images' space axes."""
        return tuple(self.factor * side for side in self.space)


@runtime_checkable
class Condition(Protocol):
    """One thing that a denoiser is told. Pure but for `read` and `ask`, which run on the host.

    The way of an example: `read` makes small arrays of it, once; `embed` what is dear to compute of them, once for each
    distinct one; both are cached beside the latents. `apply` is part of the compiled training step.
    """

    @property
    def name(self) -> str:
        """Of its arrays, parameters and options; each condition of a model has another."""
        ...

    fields: ClassVar[tuple[str, ...]]
    """What `read` looks at: "image", "label", "caption", "paired" or "objects"."""
    asks: ClassVar[tuple[str, ...]]
    """The names that `ask` takes, such as "labels"."""

    @property
    def channels(self) -> int:
        """Channels that `apply` gives to be joined to z; 0 for none."""
        ...

    @property
    def dropout(self) -> float | None:
        """Share of examples trained without it, for guidance; None where that isn't known (a published model)."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """All that its cached arrays depend on besides the data, as JSON."""
        ...

    def read(self, example: Example) -> Sequence[Arrays]:
        """The arrays of one example, several where it offers a choice (captions), of which each batch takes one.

        example: `image` is as the training sees it, cropped, resized and mirrored, where `fields` has "image"; `view`
        brings to the same what `paired` and `objects` are.
        """
        ...

    def embed(self, arrays: Arrays) -> Arrays:
        """Of arrays [k ...] as `read` makes them, those that `apply` takes; by default the same."""
        ...

    def init(self, key: Array) -> Params:
        """Parameters that are trained with the denoiser; {} for none."""
        ...

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        """What the network is told, from arrays [b ...]; keys [b] in training, None when sampling."""
        ...

    def null(self, arrays: Arrays) -> Arrays:
        """Arrays of the same shapes that say nothing."""
        ...

    def ask(self, size: Size, **given: Any) -> Asked:
        """What a user gives, under the names in `asks`; raises InputError where it is missing or wrong."""
        ...


@runtime_checkable
class Saved(Protocol):
    """What is written of a condition that has files: a frozen dataclass of plain fields, from which it is opened."""

    def open(self, folder: Path, part: Callable[[str], tuple[Any, Params]]) -> tuple[Condition, Params]:
        """The condition and its trained parameters ({} for none) from a model's folder.

        part: the module and the parameters of a sub-folder, as the model's other parts are read.
        """
        ...


@runtime_checkable
class WithFiles(Protocol):
    """A condition that is more than plain fields."""

    def save(self, params: Params, folder: Path) -> Saved:
        """Writes its parts into a model's folder; params: those that were trained with the denoiser."""
        ...


def drop(condition: Condition, arrays: Arrays, dropped: Bool[Array, "b"]) -> Arrays:
    """The arrays with those of some examples replaced by the null ones."""
    null = condition.null(arrays)

    def chosen(nothing: Any, something: Any) -> Array:
        where = dropped.reshape(-1, *(1,) * (something.ndim - 1))
        return jnp.where(where, nothing, something)

    return {name: chosen(null[name], array) for name, array in arrays.items()}


def training_conditioning(
    conditions: Sequence[Condition],
    params: Mapping[str, Params],
    arrays: Mapping[str, Arrays],
    keys: Array,
    *,
    told: bool = True,
) -> Conditioning:
    """What the network is told in a training step, each condition dropped by its own coin.

    params, arrays: by the conditions' names; keys [b]. told: False drops all of which training drops some.
    """
    parts = []
    for i, condition in enumerate(conditions):
        own = keys if i == 0 else folded(keys, i)
        given = arrays[condition.name]
        if condition.dropout:
            share = condition.dropout if told else 1.0
            given = drop(condition, given, jax.vmap(jax.random.uniform)(own) < share)
        inner = folded(own, len(conditions))
        parts.append(condition.apply(params.get(condition.name, {}), given, inner))
    return join(parts)


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """One Conditioning of several: tokens and images side by side, everything else from the one that has it.

    Tokens of one with a mask and of one without are masked together. Of [m ...] and [n ...], each is repeated in turn.
    """
    masked = any(part.context_mask is not None for part in parts)
    parts = [_masked(part) if masked else part for part in parts]
    found: dict[str, list[Any]] = {}
    for part in parts:
        for field, value in part._asdict().items():
            if value is not None:
                found.setdefault(field, []).append(value)
    joined = {field: values[0] for field, values in found.items() if len(values) == 1}
    for field in found.keys() - joined.keys():
        if field in ("image", "context", "context_mask"):
            joined[field] = _side_by_side(field, found[field])
        else:
            raise InputError(f"conditions: two of them give {field}, one must be left out")
    return Conditioning(**joined)


def _masked(part: Conditioning) -> Conditioning:
    """With a mask, if it has tokens."""
    if part.context is None or part.context_mask is not None:
        return part
    return part._replace(context_mask=jnp.ones(part.context.shape[:2], bool))


def _side_by_side(field: str, values: Sequence[Array]) -> Array:
    if field == "context" and len(sizes := sorted({value.shape[-1] for value in values})) > 1:
        raise InputError(
            f"conditions: tokens of {' and '.join(map(str, sizes))} features can't be joined; give them one width "
            "(conditions.layout.width, conditions.text.encoder.width)"
        )
    rows = math.lcm(*(len(value) for value in values))
    full = [jnp.tile(value, (rows // len(value), *(1,) * (value.ndim - 1))) for value in values]
    return jnp.concatenate(full, axis=-1 if field == "image" else 1)


def stack(rows: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Arrays of examples side by side."""
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
