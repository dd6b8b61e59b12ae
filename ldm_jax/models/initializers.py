"""What parameters begin as, each traced once for a shape: Flax asks for the shape whenever a parameter is used."""

from __future__ import annotations

import flax.linen as nn
import jax
from flax.typing import Initializer


def _once(init: Initializer) -> Initializer:
    return jax.jit(init, static_argnums=(1, 2))


LECUN = _once(nn.initializers.lecun_normal())
XAVIER = _once(nn.initializers.xavier_uniform())
SMALL = _once(nn.initializers.normal(0.02))
ZEROS, ONES = _once(nn.initializers.zeros), _once(nn.initializers.ones)
"""DiT and MMDiT start with every modulation and the output at 0 (adaLN-Zero, arXiv 2212.09748, section 3.2)."""
