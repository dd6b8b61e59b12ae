"""How images in [-1, 1] become grey levels: a choice that moves FID."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt8

from ldm_jax.errors import InputError

Rounding = Literal["round", "adm", "trunc"]

RULES: dict[str, Callable[[Any], Array]] = {
    # To the nearest level, halves to the even one; undoes the reading of 8-bit images exactly.
    "round": lambda x: jnp.round(127.5 * x + 127.5),
    # ADM's (x + 1) * 127.5 + 0.5 cut off, which improved-diffusion and ADM write as 127.5 x + 128.
    "adm": lambda x: jnp.floor(127.5 * x + 128.0),
    # x * 255 of [0, 1] cut off, as a bare .astype(uint8) does: half a level darker on average.
    "trunc": lambda x: jnp.floor(127.5 * x + 127.5),
}


def to_uint8(images: Shaped[Array | np.ndarray, "*shape"], rule: Rounding = "round") -> UInt8[Array, "*shape"]:
    """Floats in [-1, 1] to 0..255 by one of RULES, clamped; NaN is the caller's to refuse.

    Raises:
      InputError: they are not floats (grey levels already, say), or there is no such rule.
    """
    if rule not in RULES:
        raise InputError(f"rounding: {rule!r} must be one of {', '.join(RULES)}")
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images: {images.dtype} must be floats in [-1, 1]")
    # Grey levels need all the digits that short floats lack.
    images = images.astype(np.promote_types(images.dtype, np.float32))
    return jnp.clip(RULES[rule](images), 0, 255).astype(jnp.uint8)
