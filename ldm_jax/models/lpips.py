"""LPIPS: how different two images look (Zhang et al. 2018, arXiv 1801.03924, equation 1), version 0.1 of its weights.

Features of a classifier trained on ImageNet, scaled to unit length at every position, are compared channel by channel
with weights that were fitted to people's judgements.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.errors import InputError
from ldm_jax.models.layers import conv_of_any_map

Images = Float[Array, "b h w c"]
Map = Float[Array, "b _ _ _"]
Maps = tuple[Map, ...]

# ImageNet's mean and deviation, moved from [0, 1] to [-1, 1].
MEAN = (-0.030, -0.088, -0.188)
DEVIATION = (0.458, 0.448, 0.450)
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Channels of the 3-convolutions; 0 is a pooling, and the features are what enters it."""
ALEXNET = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
"""Channels, size, stride and padding of the convolutions; the second and third follow a pooling."""
SMALLEST = {"vgg16": 16, "alexnet": 32}
"""Pixels that leave something of an image after the network's poolings."""


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """Which network's features are compared."""

    network: Literal["vgg16", "alexnet"] = "vgg16"
    """vgg16 for losses, alexnet for evaluation: it is faster and agrees a little better with people."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the convolutions; parameters and distances stay float32."""
    remat: bool = False
    """Recompute the convolutions in the backward pass instead of keeping their activations."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the five feature maps."""
        return (64, 128, 256, 512, 512) if self.network == "vgg16" else tuple(layer[0] for layer in ALEXNET)


def _squared_length(x: Float[Array, "b _ _ _"]) -> Float[Array, "b _ _ 1"]:
    return jnp.square(x).sum(axis=-1, keepdims=True)


def unit_length(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """x in float32, scaled to length 1 along the channels.

    Where all channels are 0 the result is 0 and so is its gradient's factor; the square root's own would be NaN.
    """
    x = x.astype(jnp.float32)
    square = _squared_length(x)
    return x * jnp.where(square > 1e-12, jax.lax.rsqrt(jnp.where(square > 1e-12, square, 1.0)), 0.0)


class LPIPS(nn.Module):
    """(x, y) -> distance [b] in float32, 0 where two images are the same; images [b h w c] in [-1, 1], c 1 or 3.

    Images with one channel are shown three times. A network pools: VGG16 needs 16 px and AlexNet 32 px, and images
    with a shorter side than that are enlarged (bilinear) until it has them; published implementations give NaN there.
    """

    config: LPIPSConfig

    def example_inputs(self) -> tuple[Array, Array]:
        """The smallest (x, y) that is not enlarged."""
        side = SMALLEST[self.config.network]
        images = jnp.zeros((1, side, side, 3), jnp.float32)
        return images, images

    def setup(self) -> None:
        c = self.config
        layers = [(width, 3, 1, 1) for width in VGG16 if width] if c.network == "vgg16" else ALEXNET
        dtype = jnp.dtype(c.dtype)
        self.convs = [
            nn.Conv(
                width,
                (size, size),
                stride,
                padding=padding,
                dtype=dtype,
                conv_general_dilated=conv_of_any_map,
                name=f"conv{i}",
            )
            for i, (width, size, stride, padding) in enumerate(layers)
        ]
        self.heads = [nn.Dense(1, use_bias=False, dtype=jnp.float32, name=f"head{i}") for i in range(len(c.channels))]

    def features(self, x: Images) -> Maps:
        """The five feature maps of images, in the config's dtype: what `distance` compares.

        A loss keeps those of its target, which has no gradient, and computes the prediction's alone.
        """
        if x.shape[-1] not in (1, 3):
            raise InputError(f"lpips: images of {x.shape[-1]} channels, 1 or 3 are accepted")
        smallest, (height, width) = SMALLEST[self.config.network], x.shape[1:3]
        if min(height, width) < smallest:
            scale = smallest / min(height, width)
            size = max(smallest, round(scale * height)), max(smallest, round(scale * width))
            x = jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear")
        x = (x - jnp.reshape(jnp.array(MEAN), (1, 1, 1, 3))) / jnp.reshape(jnp.array(DEVIATION), (1, 1, 1, 3))
        x = x.astype(jnp.dtype(self.config.dtype))
        return self._vgg16(x) if self.config.network == "vgg16" else self._alexnet(x)

    def _layer(self, i: int, x: Map) -> Map:
        """The i-th convolution and its non-linearity."""

        def layer(module: LPIPS, x: Map) -> Map:
            return nn.relu(module.convs[i](x))

        return (nn.remat(layer) if self.config.remat else layer)(self, x)

    def _vgg16(self, x: Images) -> Maps:
        maps, i = [], 0
        for width in VGG16:
            if width:
                x, i = self._layer(i, x), i + 1
            else:
                maps.append(x)
                x = nn.max_pool(x, (2, 2), (2, 2))
        return (*maps, x)

    def _alexnet(self, x: Images) -> Maps:
        maps = []
        for i in range(len(self.convs)):
            if i in (1, 2):
                x = nn.max_pool(x, (3, 3), (2, 2))
            x = self._layer(i, x)
            maps.append(x)
        return tuple(maps)

    def distance(self, features: Maps, others: Maps) -> Float[Array, "b"]:
        """The weighted squared difference of two sets of feature maps, its mean over positions, summed over maps."""
        terms = [
            head(jnp.square(unit_length(a) - unit_length(b))).mean(axis=(1, 2, 3))
            for head, a, b in zip(self.heads, features, others, strict=True)
        ]
        return jnp.stack(terms).sum(axis=0)

    def __call__(self, x: Images, y: Float[Array, "_ _ _ _"]) -> Float[Array, "b"]:
        """The distance between x and y, image by image."""
        if x.shape != y.shape:
            raise InputError(f"lpips: images of shapes {x.shape} and {y.shape} must have the same")
        return self.distance(self.features(x), self.features(y))
