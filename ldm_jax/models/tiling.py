"""Large images in little memory: one image at a time, or one tile at a time with blended overlaps.

Both take any function from [b *space c] to a pytree of such arrays, so an autoencoder's `encode` (a Posterior, or
latents alone) and its `decode` alike, and can be nested:

    tiled(lambda x: apply(module, params, x, method="encode"), images, tile=512, overlap=128)
    sliced(lambda z: tiled(lambda y: apply(module, params, y, method="decode"), z, tile=64, overlap=16), latents)

Tiles change the result wherever a network looks further than its neighbourhood: in attention and in the statistics of
GroupNorm. A network of convolutions alone gives the same with and without them, provided that the overlap is at least
four times the radius of its receptive field.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ldm_jax.errors import InputError

Features = Float[Array, "b ... _"]
Sizes = int | Sequence[int]


def sliced(fn: Callable[[Features], Any], x: Features) -> Any:
    """fn(x) computed one example after another, in the memory of a batch of one."""
    return jax.tree.map(lambda y: y[:, 0], lax.map(lambda one: fn(one[None]), x))


def tiled(fn: Callable[[Features], Any], x: Features, *, tile: Sizes, overlap: Sizes) -> Any:
    """fn(x) computed one tile after another and blended where tiles overlap, in the memory of one tile.

    fn maps every space axis to the same multiple or fraction of its size, read off its output's shape. It is compiled
    for one shape: the last tile along an axis is moved inwards rather than cut.

    x: [b *space c]. tile, overlap: the tile's size and the least that neighbours share, along each space axis of x or
    along all of them; an axis that fits into the tile is not divided. The leaves of fn's output are floating point,
    [b *space_out c_out]; of a Posterior the means and the log-variances are blended alike.

    Raises:
      InputError: an overlap is not from 0 to tile - 1, or x, a tile or an overlap is not a whole number of fn's
        output positions.
    """
    b, *space, c = x.shape
    tiles, overlaps = _each("tile", tile, len(space)), _each("overlap", overlap, len(space))
    axes = [Axis.of(*sizes) for sizes in zip(space, tiles, overlaps, strict=True)]
    shape = (b, *(axis.tile for axis in axes), c)
    if shape == x.shape:
        return fn(x)
    outputs = jax.eval_shape(fn, jax.ShapeDtypeStruct(shape, x.dtype))

    def scaled(shape: tuple[int, ...]) -> list[Axis]:
        return [axis.scaled(Fraction(n, axis.tile)) for axis, n in zip(axes, shape[1:-1], strict=True)]

    def add(whole: Array, piece: Array, numbers: Array) -> Array:
        places = scaled(piece.shape)
        for dim, (axis, number) in enumerate(zip(places, numbers, strict=True), 1):
            like = tuple(-1 if i == dim else 1 for i in range(piece.ndim))
            piece = piece * jnp.asarray(axis.weights, jnp.float32)[number].reshape(like)
        corner = _corner(places, numbers)
        there = lax.dynamic_slice(whole, corner, piece.shape)
        return lax.dynamic_update_slice(whole, there + piece, corner)

    def step(sums: Any, numbers: Array) -> tuple[Any, None]:
        pieces = fn(lax.dynamic_slice(x, _corner(axes, numbers), shape))
        return jax.tree.map(lambda w, p: add(w, p, numbers), sums, pieces), None

    def zeros(y: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros((b, *(axis.size for axis in scaled(y.shape)), y.shape[-1]), jnp.float32)

    numbers = np.array(list(itertools.product(*(range(len(axis.starts)) for axis in axes))), np.int32)
    blended, _ = lax.scan(step, jax.tree.map(zeros, outputs), jnp.asarray(numbers))
    return jax.tree.map(lambda w, y: w.astype(y.dtype), blended, outputs)


class Axis(NamedTuple):
    """How one space axis is divided: tiles at `starts`, each sharing at least `overlap` positions with the next."""

    size: int
    tile: int
    overlap: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, size: int, tile: int, overlap: int) -> Axis:
        """Tiles at even distances, the last one against the end."""
        if not 0 <= overlap < tile:
            raise InputError(f"overlap: {overlap} must be at least 0 and less than the tile ({tile})")
        if size <= tile:
            return cls(size, size, overlap, (0,))
        return cls(size, tile, overlap, (*range(0, size - tile, tile - overlap), size - tile))

    def scaled(self, factor: Fraction) -> Axis:
        """The same axis in other units."""

        def whole(name: str, value: int) -> int:
            if (value * factor).denominator > 1:
                raise InputError(f"{name}: {value} must be a multiple of {factor.denominator}")
            return int(value * factor)

        size, tile = whole("size", self.size), whole("tile", self.tile)
        if len(self.starts) == 1:
            return Axis(size, tile, 0, (0,))
        return Axis(size, tile, whole("overlap", self.overlap), tuple(whole("overlap", s) for s in self.starts))

    @property
    def weights(self) -> Float[np.ndarray, "n tile"]:
        """What each tile contributes to each of its positions; over the tiles they sum to one at every position.

        A tile's outer quarter of an overlap has no weight, as the tile's edge spoils it; over the middle half the
        weight rises as a squared sine, so that neighbours cross-fade.
        """
        out = np.ones((len(self.starts), self.tile))
        centre = np.arange(self.tile) + 0.5
        for weight, start in zip(out, self.starts, strict=True):
            # The edges of the whole axis are no tile's edges.
            if self.overlap and start > 0:
                weight *= _ramp(centre / self.overlap)
            if self.overlap and start + self.tile < self.size:
                weight *= _ramp((self.tile - centre) / self.overlap)
        total = np.zeros(self.size)
        places = np.array(self.starts)[:, None] + np.arange(self.tile)
        np.add.at(total, places, out)
        return out / total[places]


def _ramp(distance: np.ndarray) -> np.ndarray:
    """0 up to a quarter, 1 from three quarters on."""
    return np.square(np.sin(np.pi / 2 * np.clip(2.0 * distance - 0.5, 0.0, 1.0)))


def _corner(axes: list[Axis], numbers: Array) -> tuple[Any, ...]:
    """Where tile `numbers` [rank] begins in [b *space c]."""
    return (0, *(jnp.asarray(axis.starts, jnp.int32)[n] for axis, n in zip(axes, numbers, strict=True)), 0)


def _each(name: str, value: Sizes, rank: int) -> Sequence[int]:
    values = (value,) * rank if isinstance(value, int) else value
    if len(values) != rank:
        raise InputError(f"{name}: {tuple(values)} must be one number, or one for each of {rank} space axes")
    return values
