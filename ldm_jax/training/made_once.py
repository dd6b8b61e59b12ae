"""Functions that are made once for equal settings: JAX compiles by function, so the next run of them needs not."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")
KEPT = 4
"""Results that are kept for each maker."""

_made: weakref.WeakSet[Any] = weakref.WeakSet()


def made_once(maker: Callable[P, R]) -> Callable[P, R]:
    """A maker of functions whose last results are given again for equal arguments, where all of these are values.

    Values are what is compared by its contents, functions of modules, devices, and what such a maker has made. Anything
    else, such as a text encoder with its parameters, would be kept alive for nothing.
    """
    kept = functools.lru_cache(maxsize=KEPT)(maker)

    @functools.wraps(maker)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        if not all(map(_is_value, (*args, *kwargs.values()))):
            return maker(*args, **kwargs)
        result = kept(*args, **kwargs)  # type: ignore[arg-type]
        for part in result if isinstance(result, tuple) else (result,):
            if callable(part):
                _made.add(part)
        return result

    return made


def _is_value(x: Any) -> bool:
    if isinstance(x, tuple):
        return all(map(_is_value, x))
    if isinstance(x, types.MethodType):
        return _is_value(x.__self__)
    if x is None or isinstance(x, jax.Device):
        return True
    if isinstance(x, types.FunctionType) and "<locals>" not in x.__qualname__:
        return True
    try:
        hash(x)
        return type(x).__hash__ is not object.__hash__ or x in _made
    except TypeError:
        return False
