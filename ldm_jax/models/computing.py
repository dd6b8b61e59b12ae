"""How a network is computed, apart from what it computes: arithmetic, recomputation, scans over equal blocks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.errors import InputError

Config = TypeVar("Config")
DType = Literal["float32", "bfloat16"]


def with_compute(
    config: Config, dtype: DType | None = None, remat: bool | None = None, scan: bool | None = None
) -> Config:
    """The config with those of dtype, remat and scan that are not None, for any network that a stage uses.

    A network computes the same function with any of them, to rounding. With `scan` its parameters lie differently, see
    `stack_blocks`. InputError where remat or scan is asked of a network that has no such field.
    """
    asked = {name: value for name, value in (("dtype", dtype), ("remat", remat), ("scan", scan)) if value is not None}
    fields = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    for name, value in asked.items():
        if value and name not in fields:
            raise InputError(f"{name}: {value} is not for {type(config).__name__}, which has no such field")
    return dataclasses.replace(config, **{k: v for k, v in asked.items() if k in fields})  # type: ignore[type-var]


class Span(NamedTuple):
    """Blocks that are equal in kind and follow each other, from `start` on."""

    start: int
    length: int

    @property
    def name(self) -> str:
        """Of the stack of their parameters; a single block keeps its own."""
        return f"block{self.start}" if self.length == 1 else f"blocks{self.start or ''}"


def spans(kinds: Sequence[Any]) -> list[Span]:
    """Where equal kinds follow each other."""
    starts = [i for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]
    return [Span(a, b - a) for a, b in zip(starts, [*starts[1:], len(kinds)], strict=True)]


def scanned(block: nn.Module, length: int, carry: Any, *shared: Any) -> Any:
    """`length` blocks of stacked parameters, one after the other: carry -> block(*carry, *shared) -> ... -> carry.

    carry: a tuple of arrays, which block returns (alone where it is one). shared: what every block gets. A single
    block is called as it is, without a stack.
    """
    if length == 1:
        out = block(*carry, *shared)  # type: ignore[operator]
        return out if isinstance(out, tuple) else (out,)

    def body(block: nn.Module, carry: Any, *shared: Any) -> tuple[Any, None]:
        out = block(*carry, *shared)  # type: ignore[operator]
        return (out if isinstance(out, tuple) else (out,)), None

    stack = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast,) * len(shared),  # pyright: ignore[reportArgumentType] (flax types it as int)
        length=length,
    )
    return stack(block, carry, *shared)[0]


def _kind(params: Any) -> Any:
    leaves, tree = jax.tree.flatten(params)
    return tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def stack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """A transformer's parameters in the plain layout (block0, block1, ...) as `scan` has them.

    Blocks of equal shapes that follow each other become one `blocks`, every array with a leading axis of blocks;
    `blocksN` where the first of them is not block 0. Other parameters stay.
    """
    depth = sum(re.fullmatch(r"block\d+", name) is not None for name in params)
    result = {name: value for name, value in params.items() if not re.fullmatch(r"block\d+", name)}
    blocks = [params[f"block{i}"] for i in range(depth)]
    for span in spans([_kind(block) for block in blocks]):
        own = blocks[span.start : span.start + span.length]
        result[span.name] = own[0] if span.length == 1 else jax.tree.map(_stacked, *own)
    return result


def unstack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_blocks`: the layout of published files; params in the plain layout stay as they are."""
    result = {}
    for name, value in params.items():
        found = re.fullmatch(r"blocks(\d*)", name)
        if found is None:
            result[name] = value
            continue
        start = int(found[1] or 0)
        for i in range(len(jax.tree.leaves(value)[0])):
            result[f"block{start + i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], value)
    return result


def _stacked(*leaves: Any) -> Any:
    return (np if isinstance(leaves[0], np.ndarray) else jnp).stack(leaves)
