"""The step on a linear model, where everything can be computed by hand."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.diffusion.samplers import normal
from ldm_jax.training.parallel import make_strategy
from ldm_jax.training.stage import Context
from ldm_jax.training.step import ema_decay, started, train_step

KEY = jax.random.key(3)
RATE = 0.1


def noisy_loss(params, batch, keys, context=Context()):  # noqa: B008
    """Squared error of a linear model on inputs with per-example noise; the noise is reported."""
    noise = normal(keys, batch["x"])
    return jnp.square((batch["x"] + noise) @ params["w"] - batch["y"]), {"noise": noise[:, 0]}


def init(key):
    params = {"w": jax.random.normal(key, (8,))}
    return started(params, optax.sgd(RATE))


def batch(n=16):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 8)).astype(np.float32)
    return {"x": x, "y": x.sum(axis=1), "index": np.arange(n, dtype=np.int32)}


def on_device():
    return jax.tree.map(jnp.asarray, batch())


def step(**changes):
    return partial(train_step, **{"loss_fn": noisy_loss, "optimizer": optax.sgd(RATE), "ema": 0.9, **changes})


class TestStep(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_is_gradient_descent_with_ema(self):
        state = init(KEY)
        new, metrics = self.variant(lambda s, b: step()(s, b, KEY))(state, on_device())
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(KEY, 0), jnp.arange(16))
        loss, gradient = jax.value_and_grad(lambda p: noisy_loss(p, on_device(), keys)[0].mean())(state.params)
        np.testing.assert_allclose(new.params["w"], state.params["w"] - RATE * gradient["w"], rtol=1e-5)
        decay = ema_decay(0.9, jnp.zeros(()))
        expected = decay * state.ema["w"] + (1 - decay) * new.params["w"]
        np.testing.assert_allclose(new.ema["w"], expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-5)
        assert int(new.step) == 1


def test_accumulation_changes_nothing():
    whole, metrics = jax.jit(step())(init(KEY), batch(), KEY)
    parts, metrics_of_parts = jax.jit(step(accumulate=4))(init(KEY), batch(), KEY)
    chex.assert_trees_all_close((whole, metrics), (parts, metrics_of_parts), rtol=1e-5)


def test_noise_differs_between_examples_and_steps():
    def noise_of(params, batch, keys, context):
        return jnp.zeros(len(keys)), {}

    seen = []

    def spy(params, batch, keys, context):
        seen.append(normal(keys, batch["x"]))
        return noise_of(params, batch, keys, context)

    state = init(KEY)
    step(loss_fn=spy)(state, on_device(), KEY)
    step(loss_fn=spy)(state._replace(step=state.step + 1), on_device(), KEY)
    values = np.concatenate([np.asarray(jax.lax.stop_gradient(s)) for s in seen[:: len(seen) // 2]])
    assert len(np.unique(values[:, 0])) == 32


@pytest.mark.parametrize("name", ["pmap", "fsdp"])
def test_devices_see_different_noise(name):
    """Fails when one key is replicated over the devices, as in a known JAX diffusion trainer."""

    def spread(params, batch, keys, context):
        noise = normal(keys, batch["x"])[:, 0]
        # With equal noise on all devices the mean of per-example noise over 16 examples takes 2 values, not 16.
        return jnp.zeros(len(keys)) * params["w"].sum(), {
            f"at{i}": jnp.where(batch["index"] == i, noise, 0.0) for i in range(16)
        }

    strategy = make_strategy(name, step(loss_fn=spread))
    state = strategy.create(init, KEY)
    _, metrics = strategy.step(state, strategy.put(batch()), KEY)
    noise = np.array([16 * float(metrics[f"at{i}"]) for i in range(16)])
    assert len(np.unique(noise.round(5))) == 16
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(KEY, 0), jnp.arange(16))
    np.testing.assert_allclose(noise, normal(keys, jnp.zeros((16, 8)))[:, 0], rtol=1e-5)


@pytest.mark.parametrize("name", ["pmap", "fsdp"])
def test_one_and_eight_devices_agree(name):
    losses = {}
    for count in (1, 8):
        strategy = make_strategy(name, step(), devices=jax.devices()[:count])
        state, out = strategy.create(init, KEY), []
        for _ in range(5):
            state, metrics = strategy.step(state, strategy.put(batch()), KEY)
            out.append(float(metrics["loss"]))
        losses[count] = out
        assert state.params["w"].shape == (8,)
    np.testing.assert_allclose(losses[1], losses[8], rtol=1e-5)


def test_fsdp_is_born_sharded_and_stays_so():
    strategy = make_strategy("fsdp", step(), least=1)
    state = strategy.create(init, KEY)
    for _ in range(2):
        assert state.params["w"].sharding.spec == jax.sharding.PartitionSpec("data")
        assert state.ema["w"].addressable_shards[0].data.shape == (1,)
        state, _ = strategy.step(state, strategy.put(batch()), KEY)
        jax.block_until_ready(state)


def test_state_stays_one_replicated_array_under_pmap():
    strategy = make_strategy("pmap", step())
    state = strategy.create(init, KEY)
    before = state.params["w"].sharding
    state, _ = strategy.step(state, strategy.put(batch()), KEY)
    assert state.params["w"].sharding.is_equivalent_to(before, 1)
    assert state.params["w"].is_fully_replicated


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_changes_nothing_but_the_counts(bad):
    """A NaN gradient at a finite loss counts, too; the next good step goes on as if nothing had been."""

    def sometimes(params, batch, keys, context):
        loss, _ = noisy_loss(params, batch, keys)
        broken = jnp.where(context.step == 1, jnp.nan, 1.0)
        # sqrt(0 w) has a finite value and an infinite slope.
        odd = jnp.sqrt(jnp.where(context.step == 1, 0.0, 1.0) * jnp.square(params["w"]).sum())
        return (loss * broken if bad == "loss" else loss + odd), {}

    run = jax.jit(step(loss_fn=sometimes, optimizer=optax.adam(RATE)))
    first, _ = run(started(init(KEY).params, optax.adam(RATE)), batch(), KEY)
    second, metrics = run(first, batch(), KEY)
    assert (int(second.step), int(second.skipped), float(metrics["skipped"])) == (2, 1, 1.0)
    chex.assert_trees_all_equal(second[1:4], first[1:4])
    third, metrics = run(second, batch(), KEY)
    assert (int(third.skipped), float(metrics["skipped"])) == (0, 0.0)
    assert not np.array_equal(third.params["w"], second.params["w"])


def test_a_loss_sees_the_step_the_average_and_the_frozen():
    def seen(params, batch, keys, context):
        loss = jnp.zeros(len(keys)) * params["w"].sum()
        both = {"step": context.step, "ema": context.ema["w"][0], "frozen": context.frozen["k"]}
        return loss, {name: jnp.broadcast_to(value, loss.shape).astype(jnp.float32) for name, value in both.items()}

    state = init(KEY)._replace(step=jnp.asarray(7), ema={"w": jnp.full(8, 3.0)})
    for name in ("pmap", "fsdp"):
        strategy = make_strategy(name, step(loss_fn=seen))
        placed = strategy.create(lambda key: state, KEY)
        _, metrics = strategy.step(placed, strategy.put(batch()), KEY, strategy.replicate({"k": jnp.asarray(5.0)}))
        assert [float(metrics[key]) for key in ("step", "ema", "frozen")] == [7.0, 3.0, 5.0]


def test_small_arrays_are_not_sharded():
    strategy = make_strategy("fsdp", step(), least=9)
    assert strategy.create(init, KEY).params["w"].sharding.is_fully_replicated
