"""Floating-point operations of a function, read off its jaxpr, and what the accelerators could do at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

PEAK = {
    "NVIDIA V100": 125e12,
    "Tesla V100": 125e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12,
}
"""Dense FLOP/s in bfloat16 (V100: float16) of one device, from the makers' data sheets, by the start of its kind."""


def peak_flops(kind: str) -> float | None:
    """PEAK for a device's `device_kind` (the longest name that it begins with), or None where it isn't known."""
    name = longest_start(kind, PEAK)
    return None if name is None else PEAK[name]


def longest_start(kind: str, names: Iterable[str]) -> str | None:
    """The longest of the names that a device's kind begins with, None where there is none."""
    return max((name for name in names if kind.startswith(name)), key=len, default=None)


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of function(*arguments), which is traced and not run: two for each multiply-add of matrix products and
    convolutions, all else is left out.

    A scan counts as often as it runs, a while loop once, a conditional as its most expensive branch; recomputation
    (remat) counts. Inside of shard_map and pmap shapes are those of one device, and so is the count. A custom kernel
    that holds its products in another form (cuDNN's attention) is not seen.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            total += _matrix_product(eqn)
        elif name == "conv_general_dilated":
            total += _convolution(eqn)
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        else:
            times = params["length"] if name == "scan" else 1
            total += times * sum(_count(inner) for value in params.values() for inner in _inner(value))
    return total


def _inner(value: Any) -> list[Jaxpr]:
    """The jaxprs that an equation's parameter holds."""
    if isinstance(value, (tuple, list)):
        return [inner for item in value for inner in _inner(item)]
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []


def _matrix_product(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2.0 * prod(eqn.outvars[0].aval.shape) * prod(left[axis] for axis in contracted)


def _convolution(eqn: Any) -> float:
    params, kernel = eqn.params, eqn.invars[1].aval.shape
    _, inputs, *window = params["dimension_numbers"].rhs_spec
    each = kernel[inputs] * prod(kernel[axis] for axis in window)
    # Of an image with zeros put between its pixels (the gradient of a stride) only the pixels are multiplied.
    return 2.0 * prod(eqn.outvars[0].aval.shape) * each / prod(params["lhs_dilation"])
