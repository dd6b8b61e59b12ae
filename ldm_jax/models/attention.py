"""The one place where attention is computed."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ldm_jax.errors import InputError

Implementation = Literal["auto", "xla", "cudnn", "splash"]
BLOCK = 128
"""Queries and keys of a tile of splash attention; lengths are filled up to a multiple."""
LONG = 1024
"""Queries and keys from which on splash attention is worth its filling; not measured, no TPU was at hand."""

_forced: contextvars.ContextVar[Implementation] = contextvars.ContextVar("attention", default="auto")


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """Within it every `attention` that says "auto" is computed by `name`.

    It acts where functions are traced: what was compiled before keeps what it was compiled with.
    """
    if name not in get_args(Implementation):
        raise InputError(f"attention: {name!r} must be one of {', '.join(get_args(Implementation))}")
    token = _forced.set(name)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _forced.reset(token)


def choose(backend: str, dtype: jnp.dtype, queries: int, keys: int, head_dim: int) -> Implementation:
    """What "auto" means: cuDNN's flash attention on a GPU where it knows the case (16-bit types, heads of at most 128
    features, even lengths), splash attention on a TPU for long sequences, XLA everywhere else."""
    even = queries % 2 == 0 and keys % 2 == 0
    if backend == "gpu" and dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128 and even:
        return "cudnn"
    return "splash" if backend == "tpu" and min(queries, keys) >= LONG else "xla"


def attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    mask: Bool[Array, "b m"] | None = None,
    implementation: Implementation = "auto",
    causal: bool = False,
) -> Float[Array, "b n heads d"]:
    """softmax(q k^T / sqrt(d)) v with the softmax in float32.

    mask: True where a key counts. implementation: "auto" is `choose`'s, or that of a surrounding `forced`.
    causal: a query sees the keys up to its own place.
    """
    name = _forced.get() if implementation == "auto" else implementation
    if name == "auto":
        name = choose(jax.default_backend(), q.dtype, q.shape[1], k.shape[1], q.shape[-1])
    if name == "splash":
        return _splash(q, k, v, mask, causal)
    keys = None if mask is None else mask[:, None, None, :]
    with jax.numpy_dtype_promotion("standard"):  # JAX's own code mixes its types in bfloat16.
        return jax.nn.dot_product_attention(
            q, k, v, mask=keys, is_causal=causal, implementation="cudnn" if name == "cudnn" else "xla"
        )


@functools.lru_cache(maxsize=64)
def _kernel(heads: int, queries: int, keys: int, causal: bool, interpret: bool):
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    shape = queries, keys
    one = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    # Its tables are constants, also where the first call is within a compiled function.
    with jax.ensure_compile_time_eval():
        made = kernel.make_splash_mha(
            masks.MultiHeadMask([one] * heads), head_shards=1, q_seq_shards=1, interpret=interpret
        )
    return made, kernel.SegmentIds


def _splash(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    mask: Bool[Array, "b m"] | None,
    causal: bool,
) -> Float[Array, "b n heads d"]:
    """Pallas' TPU kernel; off a TPU it is interpreted, slowly, for tests."""
    (b, n, heads, d), m = q.shape, k.shape[1]

    def filled(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % BLOCK), (0, 0), (0, 0)))
        return x.swapaxes(1, 2)

    q, k, v = filled(q * np.asarray(d**-0.5, q.dtype)), filled(k), filled(v)
    made, segment_ids = _kernel(heads, q.shape[2], k.shape[2], causal, jax.default_backend() != "tpu")
    # Queries see the keys of their own segment: 0 is what counts, 1 what is masked or filled up.
    counts = jnp.ones((b, m), bool) if mask is None else mask
    keys = 1 - jnp.pad(counts, ((0, 0), (0, k.shape[2] - m))).astype(jnp.int32)
    segments = segment_ids(jnp.zeros((b, q.shape[2]), jnp.int32), keys)
    out: Array = jax.vmap(made)(q, k, v, segments)  # type: ignore[assignment]
    return out.swapaxes(1, 2)[:, :n]
