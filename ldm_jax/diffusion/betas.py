"""Tables of betas, the discrete noise schedules that published models were trained with. Host side, float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from ldm_jax.errors import InputError

Kind = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"]
KINDS: tuple[str, ...] = get_args(Kind)

# No beta may reach 1, or alpha would be 0 before the table ends.
LARGEST_BETA = 0.999


def betas(kind: str, start: float, end: float, steps: int) -> np.ndarray:
    """The table beta_1..beta_N in float64, shape [steps].

    linear             Ho et al. 2020 (arXiv 2006.11239), section 4
    scaled_linear      latent diffusion's, linear in sqrt(beta) (Rombach et al. 2022, arXiv 2112.10752, its code)
    squaredcos_cap_v2  Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17, betas capped at 0.999
    sigmoid            a logistic ramp over [-6, 6] between start and end (GeoDiff's, arXiv 2203.02923)
    laplace            log-SNR Laplace-distributed (Hang & Gu 2024, arXiv 2407.03297, table 1), as a cumulative product
    exp                alpha-bar = exp(-12 t)

    The last four kinds but sigmoid are given by their cumulative product and ignore start and end.

    Raises:
      InputError: an unknown kind, no steps, or start and end that are not in [0, 1).
    """
    if int(steps) != steps or steps < 1:
        raise InputError(f"steps: {steps!r} is not a positive integer")
    if kind not in KINDS:
        raise InputError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    if not (0.0 <= start < 1.0 and 0.0 <= end < 1.0):
        raise InputError(f"start, end: {start!r}, {end!r} must be betas, in [0, 1)")
    if kind == "linear":
        return np.linspace(start, end, steps, dtype=np.float64)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, steps, dtype=np.float64) ** 2
    if kind == "sigmoid":
        return start + (end - start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, steps)))
    products: dict[str, Callable[[float], float]] = {
        "squaredcos_cap_v2": lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2,
        "laplace": _laplace,
        "exp": lambda u: math.exp(-12.0 * u),
    }
    bar = products[kind]
    return np.array([min(1.0 - bar((i + 1) / steps) / bar(i / steps), LARGEST_BETA) for i in range(steps)])


def _laplace(u: float) -> float:
    half = -0.5 * math.copysign(1.0, 0.5 - u) * math.log(1.0 - 2.0 * abs(0.5 - u) + 1e-6)
    return math.sqrt(1.0 / (1.0 + math.exp(-half)))


def log_alphas(table: np.ndarray) -> np.ndarray:
    """log alpha at steps 0 (clean), 1, ..., N: shape [N + 1].

    Raises:
      InputError: the table is not of betas [N] in [0, 1); for one that ends in pure noise see `zero_terminal`.
    """
    table = np.asarray(table, np.float64)
    if table.ndim != 1 or not len(table) or not ((table >= 0) & (table < 1)).all():
        raise InputError("betas: they must be numbers [n] in [0, 1); a last step without signal is zero_snr's")
    return np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-table))])


def zero_terminal(log_alpha: np.ndarray) -> np.ndarray:
    """alpha at steps 0..N, shifted and scaled so that the last is 0 and the first noisy one stays.

    Lin et al. 2023 (arXiv 2305.08891), algorithm 1. The only step of a table of one is the last.

    Raises:
      InputError: the table has several steps and no noise between the first and the last.
    """
    alpha = np.exp(np.asarray(log_alpha, np.float64))
    first, last = alpha[1], alpha[-1]
    if len(alpha) == 2:
        return np.array([1.0, 0.0])
    if not last < first:
        raise InputError("zero_snr: these betas add no noise between the first step and the last")
    return np.concatenate([[1.0], (alpha[1:] - last) * first / (first - last)])
