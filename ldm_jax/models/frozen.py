"""Layers of classifiers that are evaluated only: their batch norms are affine maps of statistics long collected."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Maps = Float[Array, "b _ _ _"]


class FrozenBatchNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) scale + bias, all four of them parameters, computed in float32."""

    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        c, zeros, ones = x.shape[-1:], nn.initializers.zeros, nn.initializers.ones
        scale, bias = self.param("scale", ones, c), self.param("bias", zeros, c)
        mean, var = self.param("mean", zeros, c), self.param("var", ones, c)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        shape = (1, 1, 1, -1)
        y = x.astype(jnp.float32) * factor.reshape(shape) + (bias - mean * factor).reshape(shape)
        return y.astype(x.dtype)


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, without bias; kernel [kh kw 1 c], as nn.Conv has it.

    A sum of shifted images: XLA's grouped convolutions take 13 to 35 times as long on a CPU.
    """

    size: tuple[int, int]
    stride: int
    padding: Literal["SAME", "VALID"]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        b, *space, c = x.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (*self.size, 1, c))
        kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
        pads = jax.lax.padtype_to_pads(space, self.size, (self.stride,) * 2, self.padding)
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        ends = [(n - k) // self.stride * self.stride + 1 for n, k in zip(x.shape[1:3], self.size, strict=True)]
        strides = (1, self.stride, self.stride, 1)

        def shifted(i: int, j: int) -> Array:
            window = jax.lax.slice(x, (0, i, j, 0), (b, i + ends[0], j + ends[1], c), strides)
            return window * kernel[i, j].reshape(1, 1, 1, c)

        return functools.reduce(jnp.add, (shifted(*place) for place in np.ndindex(*self.size)))


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and a non-linearity unless it is None."""

    features: int
    size: tuple[int, int]
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"
    depthwise: bool = False
    activation: Callable[[Array], Array] | None = nn.relu
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        if self.depthwise:
            x = DepthwiseConv(self.size, self.stride, self.padding, self.dtype, name="conv")(x)
        else:
            x = nn.Conv(
                self.features,
                self.size,
                self.stride,
                padding=self.padding,
                use_bias=False,
                dtype=self.dtype,
                name="conv",
            )(x)
        x = FrozenBatchNorm(name="norm")(x)
        return x if self.activation is None else self.activation(x)
