"""Counted operations are those of the formulas, on one device's share."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from ldm_jax.training.flops import PEAK, count_flops, peak_flops
from ldm_jax.training.parallel import make_strategy
from ldm_jax.training.record import Record
from ldm_jax.training.step import started, train_step

X, W = jnp.ones((32, 24)), jnp.ones((24, 40))
PRODUCT = 2 * 32 * 24 * 40


def loss(x, w):
    return jnp.tanh(x @ w).sum()


def test_matrix_products():
    assert count_flops(loss, X, W) == PRODUCT
    assert count_flops(jax.jit(jax.grad(loss, (0, 1))), X, W) == 3 * PRODUCT
    assert count_flops(jnp.tanh, X) == 0
    batched = jax.vmap(jnp.matmul)
    assert count_flops(batched, jnp.ones((5, 32, 24)), jnp.ones((5, 24, 40))) == 5 * PRODUCT


def test_what_runs_often_counts_often():
    def repeated(x, w):
        return jax.lax.scan(lambda c, _: (c + loss(x, w), None), 0.0, None, length=7)[0]

    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: loss(x, w) + loss(2 * x, w), lambda: loss(x, w))

    assert count_flops(repeated, X, W) == 7 * PRODUCT
    assert count_flops(either, X, W) == 2 * PRODUCT
    assert count_flops(jax.grad(jax.checkpoint(lambda x, w: loss(jnp.tanh(x), w)), (0, 1)), X, W) == 4 * PRODUCT


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions(stride, groups):
    """Both gradients of a convolution have its own cost, strides and groups or not."""

    def f(x, kernel):
        out = jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return jnp.tanh(out).sum()

    arguments = jnp.ones((2, 16, 16, 8)), jnp.ones((3, 3, 8 // groups, 12))
    forward = 2 * 2 * (16 // stride) ** 2 * 12 * 9 * 8 // groups
    assert count_flops(f, *arguments) == forward
    assert count_flops(jax.grad(f, (0, 1)), *arguments) == 3 * forward


@pytest.mark.parametrize("name", ["pmap", "fsdp"])
def test_a_strategy_counts_one_devices_share(name):
    optimizer = optax.sgd(0.1)

    def loss_fn(params, batch, keys, context):
        return jnp.square(batch["x"] @ params).sum(axis=1), {}

    step = partial(train_step, loss_fn=loss_fn, optimizer=optimizer, ema=0.9)
    strategy = make_strategy(name, step)
    state = strategy.create(lambda key: started(W, optimizer), jax.random.key(0))
    batch = strategy.put({"x": X, "index": jnp.arange(32, dtype=jnp.int32)})
    # Forward and the gradient of the weights.
    assert strategy.flops(state, batch, jax.random.key(0), None) == 2 * PRODUCT / 8


def test_peaks_by_kind():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == PEAK["TPU v5 lite"] != peak_flops("TPU v5p")
    assert peak_flops("cpu") is None


def test_rates_are_recorded(tmp_path, monkeypatch):
    record = Record(tmp_path, "denoiser", 0, 2, batch_size=4)
    record.write(1, {"loss": 1.0}, rate=8.0)
    record.flops = 5e12
    record.write(2, {"loss": 1.0}, rate=8.0)
    monkeypatch.setattr("ldm_jax.training.record.peak_flops", lambda kind: 40e12)
    record.write(3, {"loss": 1.0}, rate=8.0)
    record.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "tflops_per_second" not in lines[0]
    assert lines[1]["tflops_per_second"] == 10.0 and "flops_utilization" not in lines[1]
    assert lines[2]["flops_utilization"] == 0.25
