"""Grids: the descending times that a sampler visits, the end included (n steps are n + 1 times)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def linspace(steps: int, start: float = 1.0, end: float = 0.0) -> Float[Array, "n"]:
    """steps + 1 equally spaced times from start down to end."""
    return jnp.linspace(start, end, steps + 1)


def shifted(grid: Float[Array, "n"], s: float) -> Float[Array, "n"]:
    """Moves times towards the noise: t' = s t / (1 + (s - 1) t). Esser et al. 2024 (arXiv 2403.03206), eq. 23."""
    return s * grid / (1.0 + (s - 1.0) * grid)
