"""Vision transformers whose features are compared: DINOv2's (Oquab et al. 2023, arXiv 2304.07193) and
CLIP's (Radford et al. 2021, arXiv 2103.00020); both are Dosovitskiy et al. 2020 (arXiv 2010.11929, equations 1 to 4).

DINOv2 scales its residuals and interpolates its positions for other image sizes; CLIP normalises before the first block
and projects its class token.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.errors import InputError
from ldm_jax.models.blocks import Attention, Mlp, Tokens, layer_norm
from ldm_jax.models.layers import space_to_depth


@dataclasses.dataclass(frozen=True)
class VisionTransformerConfig:
    """A transformer over patches; the defaults are DINOv2 ViT-L/14."""

    side: int = 37
    """Patches along a side for which positions were learned; other sizes get them interpolated."""
    patch: int = 14
    """Pixels along a patch's side."""
    width: int = 1024
    """Features per token."""
    depth: int = 24
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    hidden: int = 4096
    """Hidden features of the MLP."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    """The MLP's non-linearity; quick_gelu is CLIP's."""
    epsilon: float = 1e-6
    """Epsilon of every LayerNorm."""
    patch_bias: bool = True
    """The patches' embedding has a bias (DINOv2)."""
    first_norm: bool = False
    """A LayerNorm before the first block (CLIP)."""
    layer_scale: bool = True
    """What each block adds is scaled, feature by feature (DINOv2)."""
    offset: float = 0.1
    """Added to the wanted number of patches before positions are interpolated: 0.1 in DINOv2's code, 0 elsewhere."""
    projection: int = 0
    """Features of `pool` after a projection without bias (CLIP); 0: none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters stay float32."""

    def __post_init__(self) -> None:
        for field in ("side", "patch", "width", "depth", "heads", "hidden"):
            if getattr(self, field) < 1:
                raise InputError(f"vision_transformer.{field}: {getattr(self, field)} must be at least 1")
        if self.width % self.heads:
            raise InputError(f"vision_transformer.width: {self.width} must be a multiple of heads ({self.heads})")


class VisionFeatures(NamedTuple):
    """What the network says about a batch of images, in float32."""

    pool: Float[Array, "b e"]
    """The class token after the last norm, projected where the config says so."""
    tokens: Float[Array, "b n d"]
    """The patches' tokens, row by row, after the last norm in DINOv2; CLIP norms its class token alone."""


def cubic_weights(wanted: int, given: int, offset: float) -> Float[np.ndarray, "wanted given"]:
    """The matrix of bicubic interpolation (a = -0.75, no antialiasing, edges repeated) from `given` places to `wanted`.

    Place i lies at (i + 1/2) given / (wanted + offset) - 1/2.
    """
    at = (np.arange(wanted) + 0.5) * given / (wanted + offset) - 0.5
    low = np.floor(at).astype(int)
    matrix = np.zeros((wanted, given))
    for shift in range(-1, 3):
        d = np.abs(at - (low + shift))
        near = (1.25 * d - 2.25) * d * d + 1.0
        far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
        np.add.at(matrix, (np.arange(wanted), np.clip(low + shift, 0, given - 1)), np.where(d <= 1.0, near, far))
    return matrix.astype(np.float32)


class Block(nn.Module):
    """Attention and MLP, each behind a norm, scaled and added."""

    config: VisionTransformerConfig

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        c, dtype = self.config, jnp.dtype(self.config.dtype)

        def scaled(h: Tokens, name: str) -> Tokens:
            return (
                h * self.param(name, nn.initializers.ones, (c.width,)).reshape(1, 1, -1).astype(dtype)
                if c.layer_scale
                else h
            )

        attend = Attention(c.heads, c.width // c.heads, dtype=dtype, name="attention")
        x = x + scaled(attend(layer_norm(x, c.epsilon, "norm1")), "scale1")
        mlp = Mlp(c.hidden, c.activation, dtype, name="mlp")
        return x + scaled(mlp(layer_norm(x, c.epsilon, "norm2")), "scale2")


class VisionTransformer(nn.Module):
    """images [b h w 3], normalised as its training did it -> VisionFeatures; h and w multiples of the patch."""

    config: VisionTransformerConfig

    def example_inputs(self) -> tuple[Array]:
        """The smallest (x,) that the network takes."""
        return (jnp.zeros((1, self.config.patch, self.config.patch, 3), jnp.float32),)

    def _positions(self, height: int, width: int) -> Float[Array, "1 n d"]:
        c = self.config
        table = jnp.asarray(self.param("positions", nn.initializers.normal(0.02), (1 + c.side**2, c.width)))
        if (height, width) == (c.side, c.side):
            return table[None]
        rows, columns = (jnp.asarray(cubic_weights(n, c.side, c.offset)) for n in (height, width))
        grid = table[1:].reshape(c.side, c.side, c.width)
        grid = jnp.einsum("hi,wj,ijd->hwd", rows, columns, grid, precision="highest")
        return jnp.concatenate([table[:1], grid.reshape(height * width, c.width)])[None]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> VisionFeatures:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        b, height, width, channels = x.shape
        if channels != 3 or height % c.patch or width % c.patch or not height or not width:
            raise InputError(f"images: {x.shape[1:]} must have sides that {c.patch} divides, and 3 channels")
        patches = space_to_depth(x.astype(dtype), c.patch)
        h = nn.Dense(c.width, use_bias=c.patch_bias, dtype=dtype, name="patches")(patches)
        token = self.param("token", nn.initializers.normal(0.02), (c.width,))
        token = jnp.broadcast_to(token.reshape(1, 1, -1).astype(dtype), (b, 1, c.width))
        h = jnp.concatenate([token, h.reshape(b, -1, c.width)], axis=1)
        h = h + self._positions(height // c.patch, width // c.patch).astype(dtype)
        if c.first_norm:
            h = layer_norm(h, c.epsilon, "first_norm")
        for i in range(c.depth):
            h = Block(c, name=f"block{i}")(h)
        normed = layer_norm(h, c.epsilon, "norm")
        tokens, pool = (h if c.first_norm else normed)[:, 1:], normed[:, 0]
        if c.projection:
            pool = nn.Dense(c.projection, use_bias=False, dtype=dtype, name="project")(pool)
        return VisionFeatures(pool.astype(jnp.float32), tokens.astype(jnp.float32))
