"""Networks by one program each: op by op, every operation of every shape is compiled by itself, which takes longer."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax

from ldm_jax import models


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(module: nn.Module, params: Any, *args: Any, method: str | None = None) -> Any:
    """`models.apply` under jit, compiled once for a module, a method and shapes."""
    return models.apply(module, params, *args, method=method)


@functools.partial(jax.jit, static_argnums=0)
def init(module: nn.Module, key: jax.Array, *args: Any) -> Any:
    """The parameters that a module begins with."""
    return module.init(key, *args)["params"]
