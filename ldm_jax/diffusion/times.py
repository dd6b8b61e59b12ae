"""Time samplers: which t in (0, 1) each training example gets. A function of the example's key alone."""

from __future__ import annotations

from typing import Literal

import jax
from jaxtyping import Array, Float

Kind = Literal["uniform", "logit_normal"]


def sample_times(kind: Kind, keys: Array, mean: float = 0.0, std: float = 1.0) -> Float[Array, "b"]:
    """Times [b] for keys [b].

    uniform: on [0, 1). logit_normal: sigmoid(mean + std n) with n standard normal, Esser et al. 2024
    (arXiv 2403.03206), eq. 19.
    """
    if kind == "uniform":
        return jax.vmap(jax.random.uniform)(keys)
    if kind == "logit_normal":
        return jax.nn.sigmoid(mean + std * jax.vmap(jax.random.normal)(keys))
    raise ValueError(f"kind: {kind!r} is not one of uniform, logit_normal")
