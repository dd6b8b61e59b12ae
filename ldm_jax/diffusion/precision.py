"""In which precision formulas are computed: float32 at least, for squares and differences of short floats go wrong."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.errors import InputError


def checked(name: str, x: Any) -> Any:
    """x as it is.

    Raises:
      InputError: it is not of floats, such as uint8 images, which are to be made floats in [-1, 1] first.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"{name}: {x.dtype} must be floats; latents are normalised, images lie in [-1, 1]")
    return x


def widened(dtype: Any) -> Any:
    """float32, or the type itself where that is float64; of whole numbers float32, too."""
    return np.promote_types(dtype, np.float32) if jnp.issubdtype(dtype, jnp.floating) else np.dtype(np.float32)


def wide(name: str, x: Any) -> jax.Array:
    """x in float32 at least; InputError where it is not of floats."""
    x = checked(name, jnp.asarray(x))
    return x.astype(widened(x.dtype))


def wide_times(t: Any) -> jax.Array:
    """Times in float32 at least; whole numbers are times, too."""
    t = jnp.asarray(t)
    return t.astype(widened(t.dtype))


def alike(**arrays: Any) -> None:
    """InputError where arrays are not of one shape: channels would be repeated without a word."""
    (first, a), *others = arrays.items()
    for name, b in others:
        if jnp.shape(a) != jnp.shape(b):
            raise InputError(f"{name}: {list(jnp.shape(b))} must have the shape of {first}, {list(jnp.shape(a))}")
