"""Kernel distances between sets of features: KID and CMMD."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from ldm_jax.errors import InputError
from ldm_jax.metrics.checks import directions, same_width, vectors

BLOCK = 2048


class KernelDistance(NamedTuple):
    """The mean over random subsets, their standard deviation, and the mean's standard error."""

    mean: float
    std: float
    error: float


def kernel_distance(
    samples: Shaped[np.ndarray, "n d"],
    reference: Shaped[np.ndarray, "m d"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> KernelDistance:
    """KID (Bińkowski et al. 2018, arXiv 1801.01401, section 4): unbiased squared MMD with the kernel (x.y / d + 1)^3.

    The mean over `subsets` pairs of random subsets without replacement. Subsets, seed and order are torch-fidelity's,
    so the numbers are, too. The subsets overlap, so `error` = std / sqrt(subsets) is what the subsets alone add; how
    much another set of samples would change the mean is nearer to `std`.

    Raises:
      InputError: a set is smaller than subset_size, or subset_size is less than 2; the features are not finite numbers,
        or of different length.
    """
    samples, reference = vectors("samples", samples), vectors("reference", reference)
    same_width(samples=samples, reference=reference)
    if subsets < 1:
        raise InputError(f"kid: {subsets} subsets must be at least 1")
    smaller = min(len(samples), len(reference))
    if not 2 <= subset_size <= smaller:
        raise InputError(f"kid: subsets of {subset_size} must have from 2 to {smaller} images, as many as there are")
    # torch-fidelity's generator, for equal numbers.
    rng = np.random.RandomState(seed)
    x, y = np.asarray(samples, np.float64), np.asarray(reference, np.float64)
    values = np.empty(subsets)
    for i in range(subsets):
        a = x[rng.choice(len(x), subset_size, replace=False)]
        b = y[rng.choice(len(y), subset_size, replace=False)]
        values[i] = _unbiased(_cubic(a, a)) + _unbiased(_cubic(b, b)) - 2.0 * _cubic(a, b).mean()
    return KernelDistance(float(values.mean()), float(values.std()), float(values.std() / np.sqrt(subsets)))


def _cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    kernel = a @ b.T / a.shape[1] + 1.0
    return kernel * kernel * kernel


def _unbiased(kernel: np.ndarray) -> float:
    """Mean of a kernel matrix [n n] without its diagonal."""
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def cmmd(samples: Shaped[np.ndarray, "n d"], reference: Shaped[np.ndarray, "m d"]) -> float:
    """CMMD (Jayasumana et al. 2024, arXiv 2401.09603): 1000 times the biased squared MMD of CLIP embeddings.

    The kernel is exp(-|x - y|^2 / (2 * 10^2)) on embeddings of length 1, which this makes them; the estimate is that
    of the authors' code, with the diagonals.

    Raises:
      InputError: the embeddings are not finite numbers, of different length, or one is 0 and has no direction.
    """
    x, y = directions("samples", samples), directions("reference", reference)
    same_width(samples=x, reference=y)
    return 1000.0 * (_mean_gaussian(x, x) + _mean_gaussian(y, y) - 2.0 * _mean_gaussian(x, y))


def _mean_gaussian(x: np.ndarray, y: np.ndarray, sigma: float = 10.0) -> float:
    total = 0.0
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            # |x - y|^2 of unit vectors; expm1 keeps the digits that the three means' difference is made of.
            total += np.expm1((x[i : i + BLOCK] @ y[j : j + BLOCK].T - 1.0) / sigma**2).sum()
    return float(total / (len(x) * len(y)))
