"""The patch discriminator that makes reconstructions sharp (Isola et al. 2017, arXiv 1611.07004, section 3.2.2)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ldm_jax.errors import InputError
from ldm_jax.models.layers import GroupNorm, conv_of_any_map, rank

Images = Float[Array, "b ... _"]


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """PatchGAN: `layers` strided 4-convolutions, then two at stride 1; 3 layers see patches of 70 pixels."""

    image_channels: int = 0
    """Channels of the images; 0: the autoencoder's."""
    channels: int = 64
    """Width after the first convolution; it doubles with each one up to eightfold."""
    layers: int = 3
    """Strided convolutions."""
    norm: Literal["batch", "group"] = "batch"
    """batch: statistics over the batch of all devices, as in the paper. group: each image and 32 channels (or all)."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the convolutions; parameters, statistics and logits stay float32."""
    remat: bool = False
    """Recompute the layers in the backward pass instead of keeping their activations."""

    def __post_init__(self) -> None:
        for field in ("channels", "layers"):
            if getattr(self, field) < 1:
                raise InputError(f"discriminator.{field}: {getattr(self, field)} must be at least 1")
        if self.norm == "group" and self.channels > 16 and self.channels % 16:
            raise InputError(f"discriminator.channels: {self.channels} must be a multiple of 16 with norm 'group'")

    @property
    def least_side(self) -> int:
        """The smallest image that gives a logit: after the strides, two convolutions that lose a pixel each."""
        return 3 * 2**self.layers


class BatchNorm(nn.Module):
    """Normalisation by the batch's own statistics in float32, over `axis_name` too; there are no running ones."""

    @nn.compact
    def __call__(self, x: Images, axis_name: str | None) -> Images:
        c, dtype, x = x.shape[-1], x.dtype, x.astype(jnp.float32)
        scale = self.param("scale", lambda key, shape: 1.0 + 0.02 * jax.random.normal(key, shape), (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        axes = tuple(range(x.ndim - 1))

        def mean(y: Array) -> Array:
            m = y.mean(axis=axes, keepdims=True)
            return m if axis_name is None else lax.pmean(m, axis_name)

        centred = x - mean(x)
        like = (1,) * len(axes) + (-1,)
        normed = centred * lax.rsqrt(mean(jnp.square(centred)) + 1e-5)
        return (normed * scale.reshape(like) + bias.reshape(like)).astype(dtype)


class Discriminator(nn.Module):
    """Images to a map of logits in float32, positive for real ones."""

    config: DiscriminatorConfig

    def example_inputs(self, rank: int = 2) -> tuple[Images]:
        """The smallest (x,) of `rank` axes that the network takes."""
        return (jnp.zeros((1, *(self.config.least_side,) * rank, self.config.image_channels), jnp.float32),)

    @nn.compact
    def __call__(self, x: Images, axis_name: str | None = None) -> Float[Array, "b ... 1"]:
        """Images [b *space c] in [-1, 1] to logits [b *patches 1]; axis_name: the mapped axis of the devices."""
        c, n, dtype = self.config, rank(x), jnp.dtype(self.config.dtype)

        def conv(module: nn.Module, features: int, h: Images, stride: int, bias: bool, name: str) -> Images:
            return nn.Conv(
                features,
                (4,) * n,
                (stride,) * n,
                padding=1,
                use_bias=bias,
                dtype=dtype,
                kernel_init=nn.initializers.normal(0.02),
                conv_general_dilated=conv_of_any_map,
                name=name,
                parent=module,
            )(h)

        def layer(module: nn.Module, h: Images, number: int) -> Images:
            width = c.channels * min(2**number, 8)
            h = conv(module, width, h, 2 if number < c.layers else 1, False, f"conv{number}")
            if c.norm == "batch":
                h = BatchNorm(name=f"norm{number}", parent=module)(h, axis_name)
            else:
                h = GroupNorm(max(width // 32, 1), dtype=dtype, name=f"norm{number}", parent=module)(h)
            return nn.leaky_relu(h, 0.2)

        h = nn.leaky_relu(conv(self, c.channels, x.astype(dtype), 2, True, "conv0"), 0.2)
        for number in range(1, c.layers + 1):
            one = partial(layer, number=number)
            h = (nn.remat(one) if c.remat else one)(self, h)
        return conv(self, 1, h, 1, True, "conv_out").astype(jnp.float32)
