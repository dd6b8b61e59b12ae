"""Inception v3 of 2015-12-05, the network behind FID and the Inception Score (Szegedy et al. 2015, arXiv 1512.00567).

The graph that Google published differs from the paper and from torchvision's: 1008 classes, averages that leave the
padding out, and a maximum in place of the last block's average. Images are resized as TensorFlow 1 did.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.errors import InputError
from ldm_jax.models.frozen import ConvNorm, Maps

SIDE = 299
"""Pixels of the square images that the network was trained on."""


class Layer(NamedTuple):
    """A convolution; stride 2 goes without padding, as in the published graph."""

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1


class Block(NamedTuple):
    """Branches beside each other, their outputs joined along the channels, the pooling's last."""

    branches: tuple[tuple[Layer, ...], ...]
    pool: Literal["average", "max", "reduce"]
    """A 3-average or 3-maximum and a 1-convolution, or a 3-maximum of stride 2 alone."""
    projection: int = 0
    """Channels of the pooling's convolution."""
    fork: tuple[int, ...] = ()
    """Branches that end in two convolutions beside each other, 1x3 and 3x1."""


def _a(projection: int) -> Block:
    three = Layer(96, (3, 3))
    branches = (Layer(64),), (Layer(48), Layer(64, (5, 5))), (Layer(64), three, three)
    return Block(branches, "average", projection)


def _c(width: int) -> Block:
    row, column = Layer(width, (1, 7)), Layer(width, (7, 1))
    short = Layer(width), row, Layer(192, (7, 1))
    return Block(((Layer(192),), short, (Layer(width), column, row, column, Layer(192, (1, 7)))), "average", 192)


def _e(pool: Literal["average", "max"]) -> Block:
    return Block(((Layer(320),), (Layer(384),), (Layer(448), Layer(384, (3, 3)))), pool, 192, fork=(1, 2))


BLOCKS = (
    _a(32),
    _a(64),
    _a(64),
    Block(((Layer(384, (3, 3), 2),), (Layer(64), Layer(96, (3, 3)), Layer(96, (3, 3), 2))), "reduce"),
    _c(128),
    _c(160),
    _c(160),
    _c(192),
    Block(
        (
            (Layer(192), Layer(320, (3, 3), 2)),
            (Layer(192), Layer(192, (1, 7)), Layer(192, (7, 1)), Layer(192, (3, 3), 2)),
        ),
        "reduce",
    ),
    _e("average"),
    _e("max"),
)
"""mixed to mixed_10 in TensorFlow's names, Mixed_5b to Mixed_7c in torchvision's."""
SPATIAL = 6
"""The block whose first branch gives sFID's features: mixed_6/conv."""


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """The network is fixed, as its weights are."""

    classes: int = 1008
    """Classes of the last layer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32. FID is defined in float32."""


class InceptionFeatures(NamedTuple):
    """What the network says about a batch of images, in float32."""

    pool: Float[Array, "b d"]
    """pool_3, 2048: FID and KID."""
    spatial: Float[Array, "b h2 w2 e"]
    """The first 7 channels of mixed_6/conv, 17 x 17 for images of 299 px: sFID (Nash et al. 2021, arXiv 2103.03841)."""
    logits_unbiased: Float[Array, "b k"]
    """Scores of the classes without the bias, of which ADM and the original code take the Inception Score."""
    logits: Float[Array, "b k"]
    """Scores of the classes."""


def resize_tensorflow1(x: Float[Array, "b h w c"], side: int = SIDE) -> Float[Array, "b _ _ c"]:
    """Square images as tf.image.resize_bilinear of TensorFlow 1 makes them.

    Pixel i comes from i times the ratio of the sizes, without the shift by half a pixel and without antialiasing.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        place = np.arange(side, dtype=np.float32) * np.float32(n / side)
        low = place.astype(np.int32)
        shape = [1, 1, 1, 1]
        shape[axis] = side
        weight = jnp.asarray((place - low).reshape(shape))
        first, second = jnp.take(x, low, axis), jnp.take(x, np.minimum(low + 1, n - 1), axis)
        x = first + (second - first) * weight
    return x


class Mixed(nn.Module):
    """One block."""

    block: Block
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Maps) -> tuple[Maps, Maps]:
        """The block's output, and its first branch's."""
        outputs = []
        for i, branch in enumerate(self.block.branches):
            h = x
            for j, (features, size, stride) in enumerate(branch):
                padding = "SAME" if stride == 1 else "VALID"
                h = ConvNorm(features, size, stride, padding, dtype=self.dtype, name=f"branch{i}_{j}")(h)
            outputs.append(h)
            if i in self.block.fork:
                sizes = {"row": (1, 3), "column": (3, 1)}
                outputs[-1:] = [ConvNorm(384, s, dtype=self.dtype, name=f"branch{i}_{n}")(h) for n, s in sizes.items()]
        if self.block.pool == "reduce":
            outputs.append(nn.max_pool(x, (3, 3), (2, 2)))
        else:
            mean = self.block.pool == "average"
            same = {"window_shape": (3, 3), "padding": "SAME"}
            pooled = nn.avg_pool(x, **same, count_include_pad=False) if mean else nn.max_pool(x, **same)
            outputs.append(ConvNorm(self.block.projection, (1, 1), dtype=self.dtype, name="pool")(pooled))
        return jnp.concatenate(outputs, axis=-1), outputs[0]


class Inception(nn.Module):
    """images [b h w 3] in [-1, 1], 299 px as from `resize_tensorflow1` -> InceptionFeatures; 75 px at least."""

    config: InceptionConfig

    def example_inputs(self) -> tuple[Array]:
        """The smallest (x,) that the network takes."""
        return (jnp.zeros((1, 75, 75, 3), jnp.float32),)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> InceptionFeatures:
        if x.shape[-1] != 3 or min(x.shape[1:3]) < 75:
            raise InputError(f"inception: images of shape {x.shape[1:]} must be 75 px or more, of 3 channels")
        dtype = jnp.dtype(self.config.dtype)

        def conv(h: Maps, i: int, features: int, size: int, stride: int = 1, padding: str = "VALID") -> Maps:
            return ConvNorm(features, (size, size), stride, padding, dtype=dtype, name=f"conv{i}")(h)  # type: ignore[arg-type]

        h = conv(conv(x.astype(dtype), 0, 32, 3, 2), 1, 32, 3)
        h = nn.max_pool(conv(h, 2, 64, 3, padding="SAME"), (3, 3), (2, 2))
        h = nn.max_pool(conv(conv(h, 3, 80, 1), 4, 192, 3), (3, 3), (2, 2))
        spatial = h
        for i, block in enumerate(BLOCKS):
            h, first = Mixed(block, dtype, name=f"mixed{i}")(h)
            spatial = first if i == SPATIAL else spatial
        pool = h.astype(jnp.float32).mean(axis=(1, 2))
        unbiased = nn.Dense(self.config.classes, use_bias=False, dtype=jnp.float32, name="classes")(pool)
        bias = self.param("bias", nn.initializers.zeros, (self.config.classes,))
        return InceptionFeatures(pool, spatial[..., :7].astype(jnp.float32), unbiased, unbiased + bias[None])
