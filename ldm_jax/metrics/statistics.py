"""Means and covariances of features that stream by, the Fréchet distance between them, and their files."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from ldm_jax.errors import InputError
from ldm_jax.files import whole
from ldm_jax.metrics.checks import grey_levels, vectors


class Gaussian(NamedTuple):
    """What the Fréchet distance sees of a set: the mean [d] and the covariance [d d] of its features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """The first two moments of a set of feature vectors, in float64; those of parts merge into those of the whole."""

    count: int
    mean: Float64[np.ndarray, "d"]
    scatter: Float64[np.ndarray, "d d"]
    """Sum over the set of the outer products of deviations from the mean."""

    @property
    def gaussian(self) -> Gaussian:
        """Mean and sample covariance (divided by count - 1).

        Raises:
          InputError: there are fewer than two vectors.
        """
        if self.count < 2:
            raise InputError(f"num: {self.count} image has no covariance; at least 2 are needed")
        return Gaussian(self.mean, self.scatter / (self.count - 1))


def moments(features: Shaped[np.ndarray, "n d"]) -> Moments:
    """The moments of n vectors, n at least 1.

    Raises:
      InputError: the features are not finite numbers [n d].
    """
    x = vectors("features", features).astype(np.float64)
    mean = x.mean(axis=0)
    x = x - mean
    return Moments(len(x), mean, x.T @ x)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of the union of two disjoint sets (Chan, Golub and LeVeque 1983, equations 1.5).

    Raises:
      InputError: the two have features of different length.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(f"features: {len(b.mean)} numbers must be as many as in the other part, {len(a.mean)}")
    count = a.count + b.count
    delta = b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.count * b.count / count)
    return Moments(count, a.mean + delta * (b.count / count), scatter)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2), the squared 2-Wasserstein distance of two Gaussians.

    Heusel et al. 2017 (arXiv 1706.08500), equation 6. The last trace is the sum of the singular values of
    C_a^1/2 C_b^1/2. So a singular covariance (fewer vectors than features) needs no regularisation, and the distance
    of a set from itself is 0 up to rounding.

    Raises:
      InputError: the two have features of different length, or are not a finite mean [d] and covariance [d d].
    """
    a, b = _wide("samples", a), _wide("reference", b)
    if a.mean.shape != b.mean.shape:
        raise InputError(
            f"reference: its statistics are of {len(b.mean)} features and the samples' of {len(a.mean)}; "
            "both must come from the same network"
        )
    difference = a.mean - b.mean
    overlap = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
    distance = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap
    return float(max(distance, 0.0))


def _wide(name: str, gaussian: Gaussian) -> Gaussian:
    """A Gaussian in float64, checked."""
    mean, covariance = (np.asarray(part).astype(np.float64) for part in gaussian)
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise InputError(f"{name}: statistics {list(mean.shape)}, {list(covariance.shape)} must be [d] and [d d]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{name}: its statistics hold NaN or infinite values")
    return Gaussian(mean, covariance)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """L [d r] with L L^T = covariance, without the directions that hold rounding errors alone."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


NAMES = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""The arrays of ADM's reference files: pool features (FID) and spatial ones (sFID)."""


def read_statistics(path: str | Path) -> tuple[dict[str, Gaussian], dict[str, str]]:
    """The statistics in a reference .npz as ADM publishes them, and what `write_statistics` noted beside them.

    The first dict has "pool" where the file has mu and sigma, "spatial" where it has mu_s and sigma_s; it is empty for
    a file of images alone.

    Raises:
      InputError: the file is missing, is not an npz without pickle, or its arrays don't fit together.
    """
    with open_npz(path) as file:
        found = {}
        for kind, (mu, sigma) in NAMES.items():
            if mu not in file or sigma not in file:
                continue
            mean, covariance = (_numbers(file, name, path) for name in (mu, sigma))
            if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
                raise InputError(
                    f"reference: {mu} and {sigma} of {path} have shapes {mean.shape} and {covariance.shape}; "
                    "accepted: [d] and [d d]"
                )
            if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
                raise InputError(f"reference: {mu} or {sigma} of {path} holds NaN or infinite values")
            found[kind] = Gaussian(mean, covariance)
        notes = {n.removeprefix("note_"): str(_array(file, n, path)) for n in file.files if n.startswith("note_")}
    return found, notes


def write_statistics(
    path: Path,
    statistics: Mapping[str, Gaussian],
    *,
    images: UInt8[np.ndarray, "n h w c"] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a reference .npz that ADM's evaluator reads, too: mu, sigma, mu_s, sigma_s, arr_0.

    notes: strings that say what this is, such as the feature network and its weights' hash; others ignore them.
    """
    arrays: dict[str, np.ndarray] = {}
    for kind, gaussian in statistics.items():
        arrays |= dict(zip(NAMES[kind], gaussian, strict=True))
    if images is not None:
        grey_levels("images", images)
        arrays["arr_0"] = images
    arrays |= {f"note_{name}": np.asarray(text) for name, text in (notes or {}).items()}
    # An open file, for numpy would give a name of another ending its own.
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def open_npz(path: str | Path) -> np.lib.npyio.NpzFile:
    """An .npz whose arrays are read when asked for, without pickle; a context manager.

    Raises:
      InputError: there is no such file, or it is another kind of file.
    """
    if not Path(path).is_file():
        raise InputError(f"file: {path} does not exist")
    if not zipfile.is_zipfile(path):
        raise InputError(f"file: {path} is not an .npz")
    return np.load(path, allow_pickle=False)


def _numbers(file: np.lib.npyio.NpzFile, name: str, path: str | Path) -> np.ndarray:
    array = _array(file, name, path)
    if array.dtype.kind not in "fiu":
        raise InputError(f"reference: {name} of {path} is {array.dtype}; accepted: numbers")
    return array.astype(np.float64)


def _array(file: np.lib.npyio.NpzFile, name: str, path: str | Path) -> np.ndarray:
    try:
        return file[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"reference: {name} of {path} can't be read ({' '.join(str(error).split())})") from error
