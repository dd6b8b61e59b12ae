"""Distances between two sets of features, block by block: neighbours, precision, recall, density, coverage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from ldm_jax.errors import InputError
from ldm_jax.metrics.checks import same_width, vectors

ROWS, COLUMNS = 1024, 8192


class Neighbours(NamedTuple):
    """The k nearest of another set, nearest first: Euclidean distances [n k] and positions [n k]."""

    distance: Float64[np.ndarray, "n k"]
    index: Int64[np.ndarray, "n k"]


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1] of samples near real images and of real images near samples (arXiv 1904.06991)."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density >= 0 and coverage in [0, 1] (arXiv 2002.09797, equations 2 and 3)."""

    density: float
    coverage: float


def nearest(
    queries: Shaped[np.ndarray, "n d"], points: Shaped[np.ndarray, "m d"], k: int = 1, *, other: bool = False
) -> Neighbours:
    """The k nearest `points` of each query, in float64, without an [n m] matrix in memory.

    other: queries and points are the same set, and nobody is its own neighbour.

    Raises:
      InputError: there are fewer than k points (k others), or they are not finite numbers of one length.
    """
    queries, points = vectors("queries", queries), vectors("points", points)
    same_width(queries=queries, points=points)
    if k < 1:
        raise InputError(f"k: {k} must be at least 1")
    return _nearest(queries, points, k, other, _middle(points))


def _nearest(queries: np.ndarray, points: np.ndarray, k: int, other: bool, origin: np.ndarray) -> Neighbours:
    available = len(points) - other
    if k > available:
        raise InputError(f"num: {len(points)} images; {k} neighbours of each need at least {k + other}")
    distance, index = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for rows in _ranges(len(queries), ROWS):
        best = np.empty((len(rows), 0))
        where = np.empty((len(rows), 0), np.int64)
        for columns in _ranges(len(points), COLUMNS):
            block = _squared(queries[rows.start : rows.stop], points[columns.start : columns.stop], origin)
            if other:
                same = np.intersect1d(rows, columns)
                block[same - rows.start, same - columns.start] = np.inf
            best = np.concatenate([best, block], axis=1)
            where = np.concatenate([where, np.broadcast_to(np.asarray(columns), block.shape)], axis=1)
            if best.shape[1] > k:
                chosen = np.argpartition(best, k - 1, axis=1)[:, :k]
                best, where = (np.take_along_axis(a, chosen, axis=1) for a in (best, where))
        order = np.argsort(best, axis=1, kind="stable")
        distance[rows.start : rows.stop] = np.sqrt(np.take_along_axis(best, order, axis=1))
        index[rows.start : rows.stop] = np.take_along_axis(where, order, axis=1)
    return Neighbours(distance, index)


def precision_recall(
    reference: Shaped[np.ndarray, "m d"], samples: Shaped[np.ndarray, "n d"], k: int = 3
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 and 2).

    precision: the share of samples that lie in a ball around a reference image that reaches to its k-th neighbour in
    the reference; recall: likewise with the sets exchanged.

    Raises:
      InputError: a set has no more than k vectors, or they are not finite numbers of one length.
    """
    reference, samples = _checked(reference, samples)
    origin = _middle(reference)
    radii_reference, radii_samples = _radii(reference, k, origin), _radii(samples, k, origin)
    inside, covered = np.zeros(len(samples), bool), np.zeros(len(reference), bool)
    for rows, columns, distance in _blocks(reference, samples, origin):
        inside[columns] |= (distance <= radii_reference[rows, None]).any(axis=0)
        covered[rows] |= (distance <= radii_samples[None, columns]).any(axis=1)
    return PrecisionRecall(float(inside.mean()), float(covered.mean()))


def density_coverage(
    reference: Shaped[np.ndarray, "m d"], samples: Shaped[np.ndarray, "n d"], k: int = 5
) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797, section 3).

    density: how many of the reference's k-nearest-neighbour balls a sample lies in, over k, on average (may exceed 1);
    coverage: the share of those balls that hold a sample.

    Raises:
      InputError: the reference has no more than k vectors, or they are not finite numbers of one length.
    """
    reference, samples = _checked(reference, samples)
    origin = _middle(reference)
    radii = _radii(reference, k, origin)
    count, covered = 0, np.zeros(len(reference), bool)
    for rows, _, distance in _blocks(reference, samples, origin):
        inside = distance <= radii[rows, None]
        count += int(inside.sum())
        covered[rows] |= inside.any(axis=1)
    return DensityCoverage(count / (k * len(samples)), float(covered.mean()))


def _checked(reference: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, samples = vectors("reference", reference), vectors("samples", samples)
    same_width(samples=samples, reference=reference)
    return reference, samples


def _middle(points: np.ndarray) -> np.ndarray:
    """An origin amidst the points [d]: far from it the squares' difference would lose the distances' digits."""
    return points.mean(axis=0, dtype=np.float64)


def _radii(x: np.ndarray, k: int, origin: np.ndarray) -> np.ndarray:
    return _nearest(x, x, k, True, origin).distance[:, -1]


def _ranges(n: int, size: int) -> list[range]:
    return [range(i, min(i + size, n)) for i in range(0, n, size)]


def _blocks(x: np.ndarray, y: np.ndarray, origin: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    for rows in _ranges(len(x), ROWS):
        for columns in _ranges(len(y), COLUMNS):
            i, j = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
            yield i, j, np.sqrt(_squared(x[i], y[j], origin))


def _squared(x: np.ndarray, y: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Squared distances [n m] by the scalar product; float64, so that near ones are not lost in rounding.

    What is no more than rounding is 0, for copies are to be found.
    """
    x, y = (np.asarray(a, np.float64) - origin for a in (x, y))
    out = x @ y.T
    out *= -2.0
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None]
    out += squares
    out[out <= 8.0 * np.finfo(np.float64).eps * squares] = 0.0
    return out
