"""How one layer's tensors lie in our pytrees and in PyTorch's files.

Every layout is a *view*: our array seen in the published shape. Loading writes through the view, saving reads it, so
the two directions can't disagree, and neither makes a copy beyond the array that is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

Layout = Literal["same", "linear", "conv", "point", "patch", "table"]


class Leaf(NamedTuple):
    """The published name of one of a layer's tensors, and its layout."""

    name: str
    layout: Layout


Layer = Mapping[str, Leaf]
"""Our leaf names to published ones; the empty name stands for a path that is a tensor itself."""

BIAS = Leaf("bias", "same")
LINEAR: Layer = {"kernel": Leaf("weight", "linear"), "bias": BIAS}
CONV: Layer = {"kernel": Leaf("weight", "conv"), "bias": BIAS}
POINT: Layer = {"kernel": Leaf("weight", "point"), "bias": BIAS}
"""A 1x1 convolution there, a Dense here."""
PATCH: Layer = {"kernel": Leaf("weight", "patch"), "bias": BIAS}
"""A convolution whose stride is its size there, a Dense after `space_to_depth` here."""
NORM: Layer = {"scale": Leaf("weight", "same"), "bias": BIAS}
EMBED: Layer = {"embedding": Leaf("weight", "same")}
ARRAY: Layer = {"": Leaf("", "same")}
MATRIX: Layer = {"": Leaf("", "linear")}
"""A bare matrix there, the kernel of a Dense here."""
TABLE: Layer = {"": Leaf("", "table")}
"""Positions [1, side * side, d] there, [side, side, d] here."""


def published_view(array: np.ndarray, layout: Layout, patch: int = 1) -> np.ndarray:
    """Our array in the published shape, as a view of the same memory.

    linear: [in, out] -> [out, in]. conv: [*k, in, out] -> [out, in, *k]. point: [in, out] -> [out, in, 1, 1].
    patch: [p p in, out] -> [out, in, p, p]. table: [s, s, d] -> [1, s s, d].
    """
    n = array.ndim
    if layout == "linear":
        return array.T
    if layout == "conv":
        return array.transpose(n - 1, n - 2, *range(n - 2))
    if layout == "point":
        return array.T[:, :, None, None]
    if layout == "patch":
        return array.reshape(patch, patch, -1, array.shape[-1]).transpose(3, 2, 0, 1)
    if layout == "table":
        return array.reshape(1, -1, array.shape[-1])
    return array


def published_shape(shape: tuple[int, ...], layout: Layout, patch: int = 1) -> tuple[int, ...]:
    """The shape of `published_view` of an array of `shape`."""
    return published_view(np.broadcast_to(np.zeros((), np.int8), shape), layout, patch).shape
