"""How images in [-1, 1] become grey levels: a choice that moves FID."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

Rounding = Literal["round", "adm", "trunc"]

RULES: dict[str, Callable[[Any], Array]] = {
    # To the nearest level, halves to the even one; undoes the reading of 8-bit images exactly.
    "round": lambda x: jnp.round(127.5 * x + 127.5),
    # ADM's (x + 1) * 127.5 + 0.5 cut off, which improved-diffusion and ADM write as 127.5 x + 128.
    "adm": lambda x: jnp.floor(127.5 * x + 128.0),
    # x * 255 of [0, 1] cut off, as a bare .astype(uint8) does: half a level darker on average.
    "trunc": lambda x: jnp.floor(127.5 * x + 127.5),
}


def to_uint8(images: Float[Array | np.ndarray, "*shape"], rule: Rounding = "round") -> UInt8[Array, "*shape"]:
    """[-1, 1] to 0..255 by one of RULES, clamped; NaN is the caller's to refuse."""
    return jnp.clip(RULES[rule](images), 0, 255).astype(jnp.uint8)
