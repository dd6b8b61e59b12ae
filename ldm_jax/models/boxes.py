"""Tokens of objects and their boxes, as GLIGEN has them (Li et al. 2023, arXiv 2301.07093, section 3.1)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ldm_jax.errors import InputError

FREQUENCIES, TEMPERATURE = 8, 100.0
"""Of the Fourier features of a coordinate: 100^(i / 8) radians, as in GLIGEN's code."""


@dataclasses.dataclass(frozen=True)
class BoxEncoderConfig:
    """An embedding of the class and an MLP of that and the box."""

    members: tuple[tuple[int, ...], ...]
    """Of each class the rows of the table whose sum is its embedding."""
    width: int = 192
    """Features of a token."""
    hidden: int = 512
    """Hidden features of the MLP."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""

    def __post_init__(self) -> None:
        if not self.members or min(self.width, self.hidden) < 1:
            raise InputError("box_encoder: it must have a class or more, width and hidden of at least 1")


def fourier(boxes: Float[Array, "b k 4"]) -> Float[Array, "b k f"]:
    """Sines and cosines of each coordinate, [0, 1], at FREQUENCIES frequencies."""
    frequencies = jnp.asarray(TEMPERATURE ** (np.arange(FREQUENCIES) / FREQUENCIES), jnp.float32)
    angles = (boxes[..., None] * frequencies[None, None, None, :]).reshape(*boxes.shape[:2], -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class BoxEncoder(nn.Module):
    """(classes [b k], boxes [b k 4]) -> tokens [b k+1 width]: h = MLP(embedding of the class, Fourier(box)), eq. 5.

    The first token is one and the same for all layouts, so that there is something to attend to where there is no box.
    A class of len(members) stands for none; its token is to be masked. boxes: (x0 y0 x1 y1) in units of the sides.
    """

    config: BoxEncoderConfig

    def example_inputs(self) -> tuple[Array, Array]:
        """The smallest inputs."""
        return jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, 4), jnp.float32)

    @nn.compact
    def __call__(self, classes: Int[Array, "b k"], boxes: Float[Array, "b k 4"]) -> Float[Array, "b l d"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        rows = 1 + max((row for own in c.members for row in own), default=0)
        sums = np.zeros((len(c.members) + 1, rows), np.float32)
        for i, own in enumerate(c.members):
            sums[i, list(own)] = 1.0
        table = self.param("names", nn.initializers.normal(1.0), (rows, c.width))
        names = (jnp.asarray(sums, dtype) @ table.astype(dtype))[classes]
        h = jnp.concatenate([names, fourier(boxes).astype(dtype)], axis=-1)
        h = nn.silu(nn.Dense(c.hidden, dtype=dtype, name="mlp0")(h))
        h = nn.silu(nn.Dense(c.hidden, dtype=dtype, name="mlp1")(h))
        h = nn.Dense(c.width, dtype=dtype, name="mlp2")(h)
        first = self.param("first", nn.initializers.normal(1.0), (c.width,)).astype(dtype)
        tokens = [jnp.broadcast_to(first[None, None, :], (len(h), 1, c.width)), h]
        return jnp.concatenate(tokens, axis=1)
