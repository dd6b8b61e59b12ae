"""EfficientNet-Lite0, a classifier for ImageNet (Tan & Le 2019, arXiv 1905.11946, table 1).

Lite: without squeeze-and-excitation and with ReLU6 in place of swish, as github.com/tensorflow/tpu has it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.errors import InputError
from ldm_jax.models.frozen import ConvNorm, Maps


class Stage(NamedTuple):
    """Blocks of one width; the first has the stride."""

    blocks: int
    size: int
    stride: int
    expand: int
    channels: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
SPATIAL = 4
"""The stage whose output is `spatial`: the last one that still has a 16th of the image's side."""


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """The network is fixed, as its weights are."""

    classes: int = 1000
    """Classes of the last layer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""


class EfficientNetFeatures(NamedTuple):
    """What the network says about a batch of images, in float32."""

    pool: Float[Array, "b d"]
    """The last feature maps' means, 1280: what a Fréchet distance compares."""
    spatial: Float[Array, "b h2 w2 e"]
    """Feature maps of 112 channels at a 16th of the image's side: where things are."""
    logits: Float[Array, "b k"]
    """Scores of ImageNet's classes."""


class Block(nn.Module):
    """Expansion, depthwise convolution, projection; the input is added where shapes allow."""

    stage: Stage
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        s, wide = self.stage, x.shape[-1] * self.stage.expand
        h = x
        if s.expand != 1:
            h = ConvNorm(wide, (1, 1), activation=nn.relu6, dtype=self.dtype, name="expand")(h)
        size = (s.size, s.size)
        h = ConvNorm(wide, size, self.stride, depthwise=True, activation=nn.relu6, dtype=self.dtype, name="depthwise")(
            h
        )
        h = ConvNorm(s.channels, (1, 1), activation=None, dtype=self.dtype, name="project")(h)
        return x + h if h.shape == x.shape else h


class EfficientNet(nn.Module):
    """images [b h w 3] -> EfficientNetFeatures; images are (pixels - 127) / 128, of 224 x 224 px in training.

    Convolutions pad as TensorFlow's "SAME" does. InputError for images without three channels or under 32 px.
    """

    config: EfficientNetConfig

    def example_inputs(self) -> tuple[Array]:
        """The smallest (x,) that the network takes."""
        return (jnp.zeros((1, 32, 32, 3), jnp.float32),)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> EfficientNetFeatures:
        if x.shape[-1] != 3 or min(x.shape[1:3]) < 32:
            raise InputError(f"efficientnet: images of shape {x.shape[1:]} must be 32 px or more, of 3 channels")
        dtype = jnp.dtype(self.config.dtype)
        h = ConvNorm(32, (3, 3), 2, activation=nn.relu6, dtype=dtype, name="stem")(x.astype(dtype))
        spatial, index = h, 0
        for i, stage in enumerate(LITE0):
            for j in range(stage.blocks):
                h = Block(stage, 1 if j else stage.stride, dtype, name=f"block{index}")(h)
                index += 1
            spatial = h if i == SPATIAL else spatial
        h = ConvNorm(1280, (1, 1), activation=nn.relu6, dtype=dtype, name="head")(h)
        pool = h.astype(jnp.float32).mean(axis=(1, 2))
        logits = nn.Dense(self.config.classes, dtype=jnp.float32, name="classes")(pool)
        return EfficientNetFeatures(pool, spatial.astype(jnp.float32), logits)
