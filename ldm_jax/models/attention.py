"""The one place where attention is computed."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Implementation = Literal["auto", "xla", "cudnn"]


def attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    mask: Bool[Array, "b m"] | None = None,
    implementation: Implementation = "auto",
    causal: bool = False,
) -> Float[Array, "b n heads d"]:
    """softmax(q k^T / sqrt(d)) v with the softmax in float32.

    mask: True where a key counts. implementation: "auto" takes cuDNN's flash attention on a GPU in 16-bit types (it
    knows no others) and XLA everywhere else. causal: a query sees the keys up to its own place.
    """
    if implementation == "auto":
        fused = jax.default_backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0
        implementation = "cudnn" if fused else "xla"
    keys = None if mask is None else mask[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=keys, is_causal=causal, implementation=implementation)
