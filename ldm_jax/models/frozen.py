"""Layers of classifiers that are evaluated only: their batch norms are affine maps of statistics long collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
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
        groups = x.shape[-1] if self.depthwise else 1
        x = nn.Conv(
            self.features,
            self.size,
            self.stride,
            padding=self.padding,
            use_bias=False,
            feature_group_count=groups,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = FrozenBatchNorm(name="norm")(x)
        return x if self.activation is None else self.activation(x)
