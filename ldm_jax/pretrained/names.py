"""Name maps: tables of rules, one row a rule, read in both directions.

A rule pairs a published prefix with one of our paths. `{i}`, `{j}`, `{k}` stand for the same numbers on both sides;
`{~i}` on the published side counts from the other end of the levels; `{*}` on the published side means that every
block has a copy of its own. Several published prefixes are joined along our last axis (separate q, k, v there, one
matrix here). A published prefix that ends in `#k/n` means the k-th of n equal shares along the tensor's first axis (one
matrix there, separate q, k, v here).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from ldm_jax.errors import InputError
from ldm_jax.pretrained.layouts import Layer, Layout, published_shape, published_view


class Rule(NamedTuple):
    """One row: the published prefix or prefixes, our path, the layer that both name."""

    published: str | tuple[str, ...]
    ours: str
    layer: Layer


Table = tuple[Rule, ...]


def under(published: str, ours: str, rows: Sequence[Rule]) -> Table:
    """A table of one part, as it stands within a larger one: both sides get a prefix."""

    def join(prefix: str, name: str) -> str:
        return prefix + name

    def names(rule: Rule) -> str | tuple[str, ...]:
        if isinstance(rule.published, str):
            return join(published, rule.published)
        return tuple(join(published, name) for name in rule.published)

    return tuple(Rule(names(rule), join(ours, rule.ours), rule.layer) for rule in rows)


class Numbers(NamedTuple):
    """What a table's rows need to know of the config."""

    levels: int = 1
    """Resolutions, for `{~i}`."""
    blocks: int = 1
    """Blocks, for `{*}`."""
    patch: int = 1
    """Side of a patch, for the layout of that name."""


class Source(NamedTuple):
    """Where one of our tensors comes from."""

    names: tuple[str, ...]
    """Published names: joined along our last axis, or copies of each other."""
    layout: Layout
    shape: tuple[int, ...]
    """Our shape."""
    copies: bool
    patch: int
    share: tuple[int, int] = (0, 1)
    """(k, n): ours is the k-th of n shares of the published tensor, along its first axis."""

    def views(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Our array, or its parts, in the published shapes; all of them views."""
        if self.copies or len(self.names) == 1:
            return dict.fromkeys(self.names, published_view(array, self.layout, self.patch))
        parts = np.split(array, len(self.names), axis=-1)
        views = (published_view(part, self.layout, self.patch) for part in parts)
        return dict(zip(self.names, views, strict=True))

    def published_shape(self) -> tuple[int, ...]:
        """The shape that each published tensor has."""
        shape = self.shape
        if not self.copies:
            shape = (*shape[:-1], shape[-1] // len(self.names)) if shape else shape
        shape = published_shape(shape, self.layout, self.patch)
        return (shape[0] * self.share[1], *shape[1:]) if self.share[1] > 1 else shape


@functools.lru_cache(maxsize=4096)
def pattern(ours: str) -> re.Pattern[str]:
    """What a rule's path matches."""
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>[0-9]+)", re.escape(ours)))


def _published(name: str, numbers: Numbers, found: Mapping[str, str]) -> tuple[str, ...]:
    for key, value in found.items():
        name = name.replace(f"{{{key}}}", value).replace(f"{{~{key}}}", str(numbers.levels - 1 - int(value)))
    if "{*}" not in name:
        return (name,)
    return tuple(name.replace("{*}", str(i)) for i in range(numbers.blocks))


class Found(NamedTuple):
    """What a rule says of one of our paths."""

    names: tuple[str, ...]
    layout: Layout = "same"
    copies: bool = False
    share: tuple[int, int] = (0, 1)


def _share(prefix: str) -> tuple[str, tuple[int, int]]:
    name, _, share = prefix.partition("#")
    return name, (int(share[0]), int(share[2])) if share else (0, 1)


def match(path: str, table: Sequence[Rule], numbers: Numbers) -> Found | None:
    """The published names of one of our paths, or None where no rule has it."""
    parent, _, leaf = path.rpartition("/")
    for rule in table:
        bare = "" in rule.layer
        found = pattern(rule.ours).fullmatch(path if bare else parent)
        if found is None or not (bare or leaf in rule.layer):
            continue
        spec = rule.layer["" if bare else leaf]
        prefixes = (rule.published,) if isinstance(rule.published, str) else rule.published
        (prefixes, shares) = zip(*map(_share, prefixes), strict=True)
        names = tuple(name for prefix in prefixes for name in _published(prefix, numbers, found.groupdict()))
        copies = any("{*}" in prefix for prefix in prefixes)
        # A leaf's name may begin with an underscore: in_proj_weight is not in_proj.weight.
        dot = "" if spec.name.startswith("_") or not spec.name else "."
        return Found(tuple(f"{name}{dot}{spec.name}" for name in names), spec.layout, copies, shares[0])
    return None


def param_shapes(module: nn.Module, rank: int = 2) -> Any:
    """The pytree of jax.ShapeDtypeStruct of a module's parameters for signals of that rank; nothing is computed."""
    args = module.example_inputs() if rank == 2 else module.example_inputs(rank)  # type: ignore[attr-defined]
    return jax.eval_shape(lambda key: module.init(key, *args)["params"], jax.random.key(0))


@functools.lru_cache(maxsize=64)
def flat_shapes(module: nn.Module, rank: int = 2) -> Mapping[str, tuple[int, ...]]:
    """Our paths, joined by slashes, and their shapes; traced once for each config."""
    flat: dict[tuple[str, ...], Any] = flatten_dict(param_shapes(module, rank))
    return MappingProxyType({"/".join(path): tuple(leaf.shape) for path, leaf in flat.items()})


def sources(
    module: nn.Module,
    table: Sequence[Rule] | None,
    numbers: Numbers = Numbers(),  # noqa: B008
    rank: int = 2,
) -> dict[str, Source]:
    """Where every tensor of a module comes from; table None: our own format, each under its own path."""
    result, owner = {}, {}
    for path, shape in flat_shapes(module, rank).items():
        found = Found((path,)) if table is None else match(path, table, numbers)
        if found is None:
            raise InputError(f"model: no rule of the name map has {path}")
        result[path] = Source(found.names, found.layout, shape, found.copies, numbers.patch, found.share)
        for name in found.names:
            place = name, found.share[0]
            if place in owner:
                raise InputError(f"model: the name map sends {path} and {owner[place]} to {name}")
            owner[place] = path
    return result
