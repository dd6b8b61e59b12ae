"""What the metrics take: every one of them looks at its arrays here, so that none wraps, broadcasts or divides by 0."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.errors import InputError


def _real(dtype: Any) -> bool:
    """Whether a type is of integers or floats; bfloat16 is one of the latter."""
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def vectors(name: str, features: Any) -> np.ndarray:
    """Feature vectors [n d] as they are, to be used in float64.

    Raises:
      InputError: they are not finite numbers [n d], or there are none.
    """
    x = np.asarray(features)
    if not _real(x.dtype) or x.ndim != 2 or 0 in x.shape:
        raise InputError(f"{name}: {x.dtype} {list(x.shape)} must be numbers [n d], neither of them 0")
    if not np.isfinite(x).all():
        raise InputError(f"{name}: images' features hold NaN or infinite values")
    return x


def same_width(**sets: np.ndarray) -> None:
    """InputError where sets [n d], [m d] have features of different length."""
    (first, a), *others = sets.items()
    for name, b in others:
        if a.shape[1] != b.shape[1]:
            raise InputError(
                f"{name}: its features have {b.shape[1]} numbers, those of {first} {a.shape[1]}; "
                "both must come from the same network"
            )


def directions(name: str, features: Any) -> np.ndarray:
    """Feature vectors [n d] of length 1, float64.

    Raises:
      InputError: as for `vectors`, or a vector of zeros, which has no direction.
    """
    x = vectors(name, features).astype(np.float64)
    # By their largest element first, for squares may leave the range of floats.
    largest = np.abs(x).max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise InputError(f"{name}: {int((largest == 0).sum())} of {len(x)} feature vectors are 0, without a direction")
    x = x / largest
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pictures(metric: str, x: Any, y: Any, data_range: float | int) -> tuple[jax.Array, jax.Array]:
    """Two sets of pictures [b h w c] in float32 at least, of which differences don't wrap.

    Raises:
      InputError: their shapes differ or have a 0, they are no numbers, or data_range is not a positive number.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if not (_real(x.dtype) and _real(y.dtype)):
        raise InputError(f"{metric}: images of {x.dtype} and {y.dtype} must be integers or floats")
    if x.shape != y.shape or x.ndim != 4 or 0 in x.shape:
        shapes = " and ".join(str(list(a.shape)) for a in (x, y))
        raise InputError(f"{metric}: images {shapes} must have one shape [b h w c] without a 0")
    if not 0.0 < data_range < float("inf"):
        raise InputError(f"{metric}: data_range {data_range!r} must be a positive number, 255 for grey levels")
    floats = [a.dtype for a in (x, y) if jnp.issubdtype(a.dtype, jnp.floating)]
    dtype = np.result_type(np.float32, *floats)
    return x.astype(dtype), y.astype(dtype)


def grey_levels(name: str, images: Any, *, axes: int | None = 4) -> None:
    """InputError where images are not uint8 with so many axes (None: any), or there are none."""
    dtype, shape = np.asarray(images).dtype if not hasattr(images, "dtype") else images.dtype, np.shape(images)
    if dtype != np.uint8 or (axes is not None and len(shape) != axes) or 0 in shape:
        wanted = "" if axes is None else {3: " [h w c]", 4: " [n h w c]", 5: " [n k h w c]"}[axes]
        raise InputError(f"{name}: {dtype} {list(shape)} must be uint8{wanted} without a 0")
