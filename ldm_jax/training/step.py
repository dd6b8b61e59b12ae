"""The training step, written once, for one example or for a pod."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ldm_jax.training.averages import averaged
from ldm_jax.training.stage import Context, Loss, Metrics, Params


class TrainState(NamedTuple):
    """All that a checkpoint holds."""

    step: Array
    params: Params
    ema: Params
    opt_state: optax.OptState
    skipped: Array
    """Steps in a row, up to the last one, that were skipped because something was not finite."""
    averages: tuple[Params, ...] = ()
    """Of the parameters by powers of the step (see `averages`), beside `ema`."""


def started(params: Params, optimizer: optax.GradientTransformation, averages: int = 0) -> TrainState:
    """The state before the first step; averages: how many of them are tracked beside `ema`."""
    zero = jnp.zeros((), jnp.int32)
    ema, *more = (jax.tree.map(jnp.copy, params) for _ in range(1 + averages))
    return TrainState(zero, params, ema, optimizer.init(params), zero, tuple(more))


def ema_decay(decay: float, step: Array) -> Array:
    """min(decay, (1 + step) / (10 + step)), so that early averages forget the initialisation."""
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def train_step(
    state: TrainState,
    batch: Any,
    key: Array,
    frozen: Any = None,
    *,
    loss_fn: Loss,
    optimizer: optax.GradientTransformation,
    ema: float,
    gammas: tuple[float, ...] = (),
    accumulate: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One optimiser step on a batch of arrays [b ...]; returns the new state and scalar metrics.

    `batch["index"]` [b] is each example's place in the global batch. An example's randomness is key folded with the
    step and that index, so it does not depend on the number of devices, processes or micro-batches. With `axis_name`,
    gradients and metrics are averaged over that mapped axis. A step whose loss or gradient is not finite changes
    nothing but the counts, without asking the host. gammas: exponents of the averages beside `ema`.
    """
    context = Context(state.step, state.ema, frozen)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, state.step), batch["index"])

    def mean_loss(params: Params, batch: Any, keys: Array) -> tuple[Array, Metrics]:
        losses, metrics = loss_fn(params, batch, keys, context)
        return losses.mean(), jax.tree.map(jnp.mean, {"loss": losses, **metrics})

    gradient = jax.grad(mean_loss, has_aux=True)
    if accumulate == 1:
        grads, metrics = gradient(state.params, batch, keys)
    else:
        micro = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), (batch, keys))
        shapes = jax.eval_shape(gradient, state.params, *jax.tree.map(lambda x: x[0], micro))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(
            lambda sums, part: (jax.tree.map(jnp.add, sums, gradient(state.params, *part)), None), zeros, micro
        )
        grads, metrics = jax.tree.map(lambda x: x / accumulate, total)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
    metrics["grad_norm"] = optax.tree.norm(grads)

    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an integer count.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay(ema, state.step)
    # In this form what isn't trained stays what it is, bit by bit.
    average = jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), state.ema, params)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    new, old = (params, average, opt_state), (state.params, state.ema, state.opt_state)
    kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    skipped = jnp.where(finite, 0, state.skipped + 1)
    metrics["skipped"] = skipped.astype(jnp.float32)
    done = state.step + 1
    more = tuple(averaged(a, kept[0], gamma, done) for a, gamma in zip(state.averages, gammas, strict=True))
    return TrainState(done, kept[0], kept[1], kept[2], skipped, more), metrics
