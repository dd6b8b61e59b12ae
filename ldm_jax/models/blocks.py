"""The transformer block of text encoders and UNets: pre- or post-norm, with or without cross-attention.

Vaswani et al. 2017 (arXiv 1706.03762), figure 1; GEGLU and SwiGLU of Shazeer 2020 (arXiv 2002.05202).
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ldm_jax.models.attention import attention

Tokens = Float[Array, "b _ _"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "geglu", "relu", "silu"]


def layer_norm(x: Tokens, epsilon: float, name: str) -> Tokens:
    """LayerNorm in float32, the result in x's type; must be called within a compact method."""
    norm = nn.LayerNorm(epsilon, dtype=jnp.float32, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


def standardise(x: Tokens, epsilon: float = 1e-6) -> Tokens:
    """LayerNorm without parameters, in float32, the result in x's type."""
    h = x.astype(jnp.float32)
    h = h - h.mean(axis=-1, keepdims=True)
    return (h * jax.lax.rsqrt(jnp.square(h).mean(axis=-1, keepdims=True) + epsilon)).astype(x.dtype)


def rms_norm(x: Float[Array, "b n heads d"], name: str, epsilon: float = 1e-6) -> Float[Array, "b n heads d"]:
    """RMSNorm over each head's features in float32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    norm = nn.RMSNorm(epsilon=epsilon, dtype=jnp.float32, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head attention of x [b n d] over itself or over `context` [b m e], with its four projections."""

    heads: int
    head_dim: int
    qkv_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        context: Float[Array, "b m e"] | None = None,
        mask: Bool[Array, "b m"] | None = None,
        causal: bool = False,
    ) -> Tokens:
        keys = x if context is None else context.astype(self.dtype)

        def project(source: Array, name: str) -> Float[Array, "b k heads f"]:
            h = nn.Dense(self.heads * self.head_dim, use_bias=self.qkv_bias, dtype=self.dtype, name=name)(source)
            return h.reshape(*h.shape[:-1], self.heads, self.head_dim)

        h = attention(project(x, "query"), project(keys, "key"), project(keys, "value"), mask, causal=causal)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(h.reshape(*h.shape[:-2], -1))


def activate(kind: Activation, h: Tokens) -> Tokens:
    """The non-linearity; "geglu" halves the features and its second half is the gate."""
    if kind == "geglu":
        value, gate = jnp.split(h, 2, axis=-1)
        return value * nn.gelu(gate, approximate=False)
    if kind == "quick_gelu":
        return h * nn.sigmoid(1.702 * h)
    if kind in ("relu", "silu"):
        return nn.relu(h) if kind == "relu" else nn.silu(h)
    return nn.gelu(h, approximate=kind == "gelu_tanh")


class Mlp(nn.Module):
    """Dense to `hidden` (twice that for GEGLU), non-linearity, Dense back."""

    hidden: int
    activation: Activation = "gelu"
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        wide = self.hidden * (2 if self.activation == "geglu" else 1)
        h = nn.Dense(wide, dtype=self.dtype, kernel_init=self.kernel_init, name="in")(x)
        out = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=self.kernel_init, name="out")
        return out(activate(self.activation, h))


class TransformerBlock(nn.Module):
    """Self-attention, optional cross-attention, MLP, each with a norm before (or after) and a residual around it."""

    heads: int
    head_dim: int
    hidden: int
    activation: Activation = "gelu"
    norm_first: bool = True
    cross: bool = False
    qkv_bias: bool = True
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    context_twice: bool = False
    """The first attention is over the context, too, and not over x."""

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        mask: Bool[Array, "b n"] | None = None,
        context: Float[Array, "b m e"] | None = None,
        context_mask: Bool[Array, "b m"] | None = None,
        causal: bool = False,
    ) -> Tokens:
        attend = Attention(self.heads, self.head_dim, self.qkv_bias, self.dtype, name="attention")
        mlp = Mlp(self.hidden, self.activation, self.dtype, name="mlp")
        if not self.norm_first:
            x = layer_norm(x + attend(x, mask=mask, causal=causal), self.epsilon, "norm1")
            return layer_norm(x + mlp(x), self.epsilon, "norm3")
        if self.context_twice:
            x = x + attend(layer_norm(x, self.epsilon, "norm1"), context, context_mask)
        else:
            x = x + attend(layer_norm(x, self.epsilon, "norm1"), mask=mask, causal=causal)
        if self.cross:
            look = Attention(self.heads, self.head_dim, self.qkv_bias, self.dtype, name="cross")
            x = x + look(layer_norm(x, self.epsilon, "norm2"), context, context_mask)
        return x + mlp(layer_norm(x, self.epsilon, "norm3"))
