"""One attention for all: its implementations agree with the formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.errors import InputError
from ldm_jax.models.attention import attention, choose, forced


def formula(q, k, v, mask=None, causal=False):
    """softmax(q k^T / sqrt(d)) v in float64 (Vaswani et al. 2017, eq. 1)."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        logits = np.where(np.asarray(mask)[:, None, None, :], logits, -np.inf)
    if causal:
        logits = np.where(np.tril(np.ones(logits.shape[-2:], bool)), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), v)


def inputs(n=6, m=6, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (3, size, 2, 8), dtype) for key, size in zip(keys, (n, m, m), strict=True)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_implementations_agree(implementation, masked, causal):
    q, k, v = inputs()
    mask = jnp.arange(6)[None] < jnp.array([[6], [3], [1]]) if masked else None
    out = attention(q, k, v, mask, implementation, causal)
    np.testing.assert_allclose(out, formula(q, k, v, mask, causal), rtol=1e-5, atol=1e-5)


def test_cross_attention():
    q, k, v = inputs(4, 7)
    np.testing.assert_allclose(attention(q, k, v), formula(q, k, v), rtol=1e-5, atol=1e-5)


def test_softmax_is_in_float32():
    """bfloat16 inputs lose their own rounding and no more, also with large logits."""
    q, k, v = inputs(dtype=jnp.bfloat16)
    out = attention(30 * q, k, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), formula(30 * q, k, v), rtol=0.03, atol=0.03)


def splash(n, m, mask, causal):
    q, k, v = inputs(n, m)
    with forced("splash"):
        out = jax.jit(lambda q, k, v: attention(q, k, v, mask, causal=causal))(q, k, v)
    np.testing.assert_allclose(out, formula(q, k, v, mask, causal), rtol=1e-5, atol=1e-5)


def test_splash():
    """TPU's kernel, interpreted: lengths that are no multiples of its tiles, a mask, chosen by the switch."""
    splash(6, 9, jnp.arange(9)[None] < jnp.array([[9], [3], [1]]), False)


@pytest.mark.slow
@pytest.mark.parametrize("n", [128, 130])
@pytest.mark.parametrize("causal", [False, True])
def test_splash_at_length(n, causal):
    splash(n, n if causal else 257, None, causal)


@pytest.mark.slow
def test_gradients_of_splash():
    q, k, v = inputs(130, 130)

    def loss(name, q, k, v):
        return jnp.square(attention(q, k, v, implementation=name)).sum()

    ours, theirs = (jax.grad(lambda *x, name=name: loss(name, *x), (0, 1, 2))(q, k, v) for name in ("splash", "xla"))
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_what_is_chosen():
    half, single = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
    assert choose("gpu", half, 64, 78, 64) == "cudnn"
    # Refused on an H100: odd numbers of keys, and heads as wide as that of Stable Diffusion's VAE.
    assert choose("gpu", half, 64, 77, 64) == choose("gpu", half, 64, 64, 512) == "xla"
    assert choose("gpu", single, 64, 78, 64) == choose("gpu", half, 64, 78, 20) == "xla"
    assert choose("tpu", half, 4096, 4096, 64) == choose("tpu", single, 1024, 1024, 64) == "splash"
    assert choose("tpu", half, 4096, 77, 64) == choose("cpu", half, 4096, 4096, 64) == "xla"


def test_the_switch_ends_with_its_block():
    q, k, v = inputs()
    expected = attention(q, k, v, implementation="xla")
    with forced("xla"):
        np.testing.assert_array_equal(attention(q, k, v), expected)
    with pytest.raises(InputError, match="must be one of auto, xla, cudnn, splash"), forced("flash"):
        pass
    np.testing.assert_array_equal(attention(q, k, v), expected)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnn():
    q, k, v = inputs(64, 64, jnp.bfloat16)
    one, two = attention(q, k, v, implementation="cudnn"), attention(q, k, v, implementation="xla")
    np.testing.assert_allclose(one.astype(jnp.float32), two.astype(jnp.float32), rtol=0.03, atol=0.03)
