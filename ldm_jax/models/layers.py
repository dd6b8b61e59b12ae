"""Layers that several networks share: [b *space c] in and out, any number of space axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ldm_jax.models.attention import attention
from ldm_jax.models.initializers import LECUN, ONES, SMALL, ZEROS

Features = Float[Array, "b ... _"]


def rank(x: Features) -> int:
    """The number of space axes of [b *space c]."""
    return x.ndim - 2


def space_to_depth(x: Features, patch: int) -> Features:
    """[b *space c] -> [b *(space / patch) patch^rank c], the offsets within a patch major to the channels."""
    if patch == 1:
        return x
    b, *space, c = x.shape
    n = len(space)
    x = x.reshape(b, *(size for s in space for size in (s // patch, patch)), c)
    x = x.transpose(0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)
    return x.reshape(b, *(s // patch for s in space), patch**n * c)


def depth_to_space(x: Features, patch: int) -> Features:
    """The inverse of `space_to_depth`."""
    if patch == 1:
        return x
    b, *space, c = x.shape
    n = len(space)
    x = x.reshape(b, *space, *(patch,) * n, c // patch**n)
    x = x.transpose(0, *(axis for i in range(n) for axis in (1 + i, 1 + n + i)), 2 * n + 1)
    return x.reshape(b, *(s * patch for s in space), c // patch**n)


def _swap_minor(x: Features, major: int, minor: int) -> Features:
    """Channels that count through [major minor] reordered to [minor major]."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], major, minor), -1, -2).reshape(x.shape)


def conv(
    features: int, x: Features, dtype: DTypeLike, size: int = 3, name: str | None = None, zero: bool = False
) -> Features:
    """A convolution of odd `size` that keeps the space axes; must be called within a compact method.

    zero: its kernel starts as 0, as a denoiser's last one should.
    """
    init = ZEROS if zero else LECUN
    return nn.Conv(features, (size,) * rank(x), padding=size // 2, dtype=dtype, kernel_init=init, name=name)(x)


def conv_of_any_map(x: Array, kernel: Array, window_strides: Sequence[int], padding: Any, **options: Any) -> Array:
    """lax.conv_general_dilated for `nn.Conv(conv_general_dilated=...)`, but a matrix product where maps are small.

    Where the kernel is larger than the result, XLA makes the kernel the image and the image the kernel, forward or in
    the gradient, which runs at a hundredth of the speed on a CPU: at 32 px VGG16's last layers, maps of 2 x 2, cost
    more than all of the others together.
    """
    n = rank(x)
    sizes = kernel.shape[:n]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], sizes, window_strides, padding)
    pads = [(int(low), int(high)) for low, high in padding]
    sides = [side + low + high for side, (low, high) in zip(x.shape[1:-1], pads, strict=True)]
    large = all(side + 1 >= 2 * size for side, size in zip(sides, sizes, strict=True))
    if large or set(window_strides) != {1}:
        return lax.conv_general_dilated(x, kernel, window_strides, pads, **options)
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    out = [side - size + 1 for side, size in zip(x.shape[1:-1], sizes, strict=True)]
    parts = [
        x[(slice(None), *(slice(i, i + side) for i, side in zip(offset, out, strict=True)))]
        for offset in itertools.product(*map(range, sizes))
    ]
    return jnp.concatenate(parts, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class GroupNorm(nn.Module):
    """Group normalisation with statistics in float32 and the result in `dtype`."""

    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        scale, bias = _Affine(name="norm")(x.shape[-1])
        return group_norm(x, scale, bias, groups=self.groups, epsilon=self.epsilon).astype(self.dtype)


class _Affine(nn.Module):
    @nn.compact
    def __call__(self, features: int) -> tuple[Any, Any]:
        return self.param("scale", ONES, (features,), jnp.float32), self.param("bias", ZEROS, (features,), jnp.float32)


# Compiled as a part of whatever calls it; under its own jit it is traced and differentiated once for each shape.
@partial(jax.jit, static_argnames=("groups", "epsilon"))
def group_norm(
    x: Features, scale: Float[Array, "c"], bias: Float[Array, "c"], *, groups: int, epsilon: float
) -> Features:
    """Groups of channels of each example at mean 0 and variance 1, scaled and moved (arXiv 1803.08494), in float32."""
    b, *space, c = x.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    x = x.astype(jnp.float32).reshape(b, math.prod(space), groups, c // groups)
    x = x - x.mean(axis=(1, 3), keepdims=True)
    scale, bias = (each.astype(jnp.float32).reshape(1, 1, groups, -1) for each in (scale, bias))
    factor = lax.rsqrt(jnp.square(x).mean(axis=(1, 3), keepdims=True) + epsilon) * scale
    return (x * factor + bias).reshape(b, *space, c)


class ResBlock(nn.Module):
    """norm, silu, conv, [+ embedding], norm, silu, conv, plus a (projected) shortcut."""

    features: int
    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features, embedding: Float[Array, "b e"] | None = None) -> Features:
        h = nn.silu(GroupNorm(self.groups, self.epsilon, self.dtype, name="norm1")(x))
        h = conv(self.features, h, self.dtype, name="conv1")
        if embedding is not None:
            shift = nn.Dense(self.features, dtype=self.dtype, name="embedding")(nn.silu(embedding))
            h = h + shift.reshape(shift.shape[0], *(1,) * rank(x), self.features)
        h = nn.silu(GroupNorm(self.groups, self.epsilon, self.dtype, name="norm2")(h))
        h = conv(self.features, h, self.dtype, name="conv2")
        if x.shape[-1] != self.features:
            x = conv(self.features, x, self.dtype, size=1, name="shortcut")
        return x + h


class SpatialAttention(nn.Module):
    """Single- or multi-head self-attention over all positions, with GroupNorm before and a residual around it."""

    heads: int = 1
    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        b, *space, c = x.shape
        h = GroupNorm(self.groups, self.epsilon, self.dtype, name="norm")(x).reshape(b, -1, c)
        q, k, v = (
            nn.Dense(c, dtype=self.dtype, name=name)(h).reshape(b, -1, self.heads, c // self.heads)
            for name in ("query", "key", "value")
        )
        h = nn.Dense(c, dtype=self.dtype, name="out")(attention(q, k, v).reshape(b, -1, c))
        return x + h.reshape(b, *space, c)


class Downsample(nn.Module):
    """Halves the space axes with a strided 3-convolution.

    padding: "end" pads one zero after each axis, as LDM's autoencoder does; "both" pads both sides, as its UNet does.
    residual: adds the input's pixels, moved to the channels and averaged in groups (DC-AE, arXiv 2410.10733, figure 4).
    """

    features: int
    padding: Literal["end", "both"] = "end"
    dtype: DTypeLike = jnp.float32
    residual: bool = False

    @nn.compact
    def __call__(self, x: Features) -> Features:
        n = rank(x)
        pads = ((0, 1) if self.padding == "end" else (1, 1),) * n
        h = nn.Conv(self.features, (3,) * n, strides=(2,) * n, padding=pads, dtype=self.dtype, name="conv")(x)
        if not self.residual:
            return h
        # The four pixels of one channel stay together, so that a group averages as few channels as it can.
        pixels = _swap_minor(space_to_depth(x, 2), 2**n, x.shape[-1])
        return h + pixels.reshape(*h.shape, -1).mean(axis=-1).astype(h.dtype)


class Upsample(nn.Module):
    """Doubles the space axes by nearest neighbour, then a 3-convolution.

    size: the space axes wanted, for skip connections of odd size; each is twice the input's or one less.
    residual: adds the input's channels, repeated and moved to the pixels (DC-AE, arXiv 2410.10733, figure 4).
    """

    features: int
    dtype: DTypeLike = jnp.float32
    residual: bool = False

    @nn.compact
    def __call__(self, x: Features, size: tuple[int, ...] | None = None) -> Features:
        n, shortcut = rank(x), None
        if self.residual:
            pixels = jnp.repeat(x, 2**n * self.features // x.shape[-1], axis=-1)
            shortcut = depth_to_space(_swap_minor(pixels, self.features, 2**n), 2)
        for axis in range(1, x.ndim - 1):
            x = jnp.repeat(x, 2, axis=axis)
        if size is not None and size != x.shape[1:-1]:
            x = x[(slice(None), *(slice(s) for s in size))]
        h = conv(self.features, x, self.dtype, name="conv")
        return h if shortcut is None else h + shortcut.astype(h.dtype)


def sinusoidal(
    t: Float[Array, "b"], dim: int, max_period: float = 10_000.0, shift: float = 0.0, sine_first: bool = False
) -> Float[Array, "b {dim}"]:
    """Timestep features [cos, sin] at geometric frequencies 1 .. 1/max_period, half of dim each.

    Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, in the order and with the divisor of the original DiT.
    shift: subtracted from the divisor dim / 2 of the exponents, 1 in DDPM and diffusers' DiT. sine_first: [sin, cos].
    """
    half = dim // 2
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    parts = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(parts[::-1] if sine_first else parts, axis=-1)


class TimeEmbedding(nn.Module):
    """Sinusoidal features of t, then Dense, silu, Dense; features of a guidance scale are added to those of t."""

    features: int
    frequencies: int = 256
    dtype: DTypeLike = jnp.float32
    shift: float = 0.0
    sine_first: bool = False

    @nn.compact
    def __call__(self, t: Float[Array, "b"], guidance: Float[Array, "b k"] | None = None) -> Float[Array, "b e"]:
        h = sinusoidal(t, self.frequencies, shift=self.shift, sine_first=self.sine_first).astype(self.dtype)
        if guidance is not None:
            h = h + nn.Dense(self.frequencies, use_bias=False, dtype=self.dtype, name="guidance")(guidance)
        h = nn.Dense(self.features, dtype=self.dtype, kernel_init=SMALL, name="dense1")(h)
        return nn.Dense(self.features, dtype=self.dtype, kernel_init=SMALL, name="dense2")(jax.nn.silu(h))


class VectorEmbedding(nn.Module):
    """Dense, silu, Dense of a condition's vector, to be added to that of the time."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b e"]:
        h = jax.nn.silu(nn.Dense(self.features, dtype=self.dtype, kernel_init=SMALL, name="dense1")(x))
        return nn.Dense(self.features, dtype=self.dtype, kernel_init=SMALL, name="dense2")(h)
