"""Parameters from published tensors, one at a time, straight into the wanted type and sharding."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.pretrained.names import Source
from ldm_jax.pretrained.tensors import FLOATS, Renamed, Tensors
from ldm_jax.progress import track


class Match(NamedTuple):
    """How the tensors of a file and those of a network belong together."""

    mapped: Mapping[str, str]
    """Published names and our paths."""
    left_over: tuple[str, ...]
    """Published names that nothing of ours wants."""
    missing: tuple[str, ...]
    """Published names that the file lacks."""


def renamed(tensors: Tensors, aliases: Sequence[tuple[str, str]]) -> Tensors:
    """The tensors under today's names; aliases are regular expressions and replacements."""
    names: dict[str, str] = {}
    for old in tensors.info:
        new = old
        for pattern, replacement in aliases:
            new = re.sub(pattern, replacement, new)
        if new in names:
            raise InputError(f"model: {old} and {names[new]} are both {new}")
        names[new] = old
    return Renamed(tensors, names) if aliases else tensors


def compare(tensors: Tensors, wanted: Mapping[str, Source], derived: Sequence[str] = ()) -> Match:
    """What of a file is mapped, left over or missing; derived: regular expressions of names that may be left over."""
    mapped = {name: path for path, source in wanted.items() for name in source.names}
    rest = (name for name in tensors.info if name not in mapped)
    left_over = tuple(name for name in rest if not any(re.fullmatch(pattern, name) for pattern in derived))
    missing = tuple(name for name in mapped if name not in tensors.info)
    return Match({name: path for name, path in mapped.items() if name in tensors.info}, left_over, missing)


def refuse(match: Match, ignore: Sequence[str], where: str) -> None:
    """InputError for what is left over or missing, unless a pattern of `ignore` (as in a shell) names it."""
    said = []
    for what, names in (("lacks", match.missing), ("has besides", match.left_over)):
        names = sorted(name for name in names if not any(fnmatch.fnmatchcase(name, p) for p in ignore))
        if names:
            said.append(f"{what} {len(names)} tensors, {names[0]} first")
    if said:
        # Both, for the one is often the other under a name that isn't known.
        raise InputError(f"model: {where} {' and '.join(said)}")


def check(tensors: Tensors, wanted: Mapping[str, Source], where: str) -> None:
    """InputError where a tensor that is there has another shape, or isn't one of floats."""
    for source in wanted.values():
        expected = source.published_shape()
        for name in source.names:
            if name not in tensors.info:
                continue
            dtype, shape = tensors.info[name]
            if dtype not in FLOATS:
                raise InputError(f"model: {name} in {where} has type {dtype}; accepted: {', '.join(map(str, FLOATS))}")
            # 1x1 convolutions for matrices, and the other way round, are the same numbers.
            if _squeezed(shape) != _squeezed(expected):
                raise InputError(f"model: {name} in {where} has shape {shape}, its config says {expected}")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def build(tensors: Tensors, source: Source, dtype: np.dtype | None) -> np.ndarray:
    """One of our arrays: each published piece is cast and transposed on its way to its place."""
    there = [name for name in source.names if name in tensors.info]
    kind = dtype or (np.result_type(*(tensors.info[name].dtype for name in there)) if there else np.dtype(np.float32))
    array = np.empty(source.shape, kind) if len(there) == len(source.names) else np.zeros(source.shape, kind)
    for name, view in source.views(array).items():
        if name not in tensors.info:
            continue
        share, shares = source.share
        shape = tensors.info[name].shape
        shape = (shape[0] // shares, *shape[1:]) if shape else shape
        # A view again: only axes of size 1 come or go.
        target = view.reshape(shape) if view.shape != shape else view
        for place, piece in tensors.chunks(name):
            if shares == 1:
                target[place] = piece
                continue
            # The rows of this piece that are ours, counted from our first row.
            first = place.start - share * shape[0]
            begin, end = max(first, 0), min(first + len(piece), shape[0])
            if begin < end:
                target[begin:end] = piece[begin - first : end - first]
        if source.copies:
            break
    return array


def fill(
    tensors: Tensors,
    wanted: Mapping[str, Source],
    dtype: np.dtype | None,
    sharding: Any = None,
    progress: Callable[[str], None] | None = None,
) -> dict[tuple[str, ...], Any]:
    """Every parameter, by path; numpy arrays, or arrays on devices where a sharding is given.

    sharding: a jax.sharding.Sharding or jax.Device for all of them, or a function of our path and shape.
    """
    params: dict[tuple[str, ...], Any] = {}
    for path, source in track(wanted.items(), "reading", len(wanted), "array"):
        array = build(tensors, source, dtype)
        if sharding is not None:
            target = sharding(path, source.shape) if callable(sharding) else sharding
            # Waiting keeps the host's copy from outliving its turn.
            array = jax.block_until_ready(jax.device_put(array, target))
        params[tuple(path.split("/"))] = array
        if progress is not None:
            progress(path)
    return params
