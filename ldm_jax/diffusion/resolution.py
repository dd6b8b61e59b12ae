"""How much noise images of other sizes need for their signal."""

from __future__ import annotations

import math

from ldm_jax.errors import InputError


def resolution_shift(
    tokens: int,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base: float = 0.5,
    maximum: float = 1.15,
    exponential: bool = True,
) -> float:
    """The shift s for an image of that many tokens: linear in the tokens between two resolutions.

    Esser et al. 2024 (arXiv 2403.03206), section 5.3.2, derives sqrt(m / n); Flux interpolates mu linearly between
    (base_tokens, base) and (max_tokens, maximum), with s = exp(mu) (exponential) or mu itself.
    """
    if max_tokens <= base_tokens:
        raise InputError(f"max_tokens: {max_tokens} must be more than base_tokens, {base_tokens}")
    mu = base + (maximum - base) * (tokens - base_tokens) / (max_tokens - base_tokens)
    return math.exp(mu) if exponential else mu
