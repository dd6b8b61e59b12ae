"""Every optimiser and every decay of the learning rate: one test for all that RULES and Decay hold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.errors import InputError
from ldm_jax.serialization import convert, from_tree, kinds_of, to_tree
from ldm_jax.training.decays import CosineDecay, Decay, InverseSquareRoot, LinearDecay, NoDecay, WarmupStableDecay
from ldm_jax.training.optimizers import RULES, AdamW, Muon, Optimizer, hidden
from ldm_jax.training.stage import Training

RATES = {"AdamW": 0.1, "Lion": 0.03, "Adafactor": 0.3, "Muon": 0.1, "SGD": 0.02}


@pytest.fixture(autouse=True)
def _promotion():
    """optax raises floats to the power of an integer count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


EACH = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


def loss(params):
    return jnp.square(params["w"] - 1.0).sum() + jnp.square(params["b"] + 2.0).sum()


@EACH
def test_it_goes_down_a_bowl(rule):
    optimizer = rule().make(optax.constant_schedule(RATES[rule.__name__]))
    params = {"w": jnp.zeros((8, 8)), "b": jnp.zeros(8)}
    state, before = optimizer.init(params), float(loss(params))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(60):
        params, state = step(params, state)
    assert float(loss(params)) < 0.2 * before


@EACH
def test_weight_decay_acts_on_matrices_only(rule):
    if "weight_decay" not in to_tree(rule()):
        return
    optimizer = rule(weight_decay=0.5).make(optax.constant_schedule(0.1))
    params = {"w": jnp.ones((8, 8)), "b": jnp.ones(8)}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    assert float(jnp.abs(updates["b"]).max()) < 1e-6
    assert float(updates["w"].max()) < -0.01


@EACH
def test_json_both_ways_and_its_options(rule):
    tree = to_tree(rule(), Optimizer)
    assert tree["type"] == rule.__name__
    assert convert(Optimizer, tree, "optimizer") == rule()
    assert from_tree(Training, to_tree(Training(optimizer=rule()))).optimizer == rule()


def test_adamw_is_optaxs():
    training = Training(steps=50, learning_rate=1e-2, warmup=5, optimizer=AdamW(0.8, 0.95, 1e-8, 0.1), clip=0.5)
    schedule = optax.warmup_cosine_decay_schedule(1e-2 / 6, 1e-2, 5, 50, 0.0)
    adamw = optax.adamw(
        schedule, 0.8, 0.95, 1e-8, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    )
    theirs, ours = optax.chain(optax.clip_by_global_norm(0.5), adamw), training.make_optimizer()
    params = {"w": jnp.ones((3, 3)), "b": jnp.ones(3)}
    gradient = {"w": jnp.full((3, 3), 0.3), "b": jnp.full(3, -2.0)}
    a, b = ours.init(params), theirs.init(params)
    for _ in range(4):
        one, a = ours.update(gradient, a, params)
        two, b = theirs.update(gradient, b, params)
        jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
    ("decay", "middle", "last"),
    [
        (CosineDecay(0.1), 0.55, 0.1),
        (LinearDecay(), 0.5, 0.0),
        (NoDecay(), 1.0, 1.0),
        (WarmupStableDecay(0.2), 1.0, 0.0),
        (InverseSquareRoot(), np.sqrt(10 / 55), np.sqrt(10 / 100)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_rate_rises_and_falls(decay, middle, last):
    rate = Training(steps=100, learning_rate=2.0, warmup=10, decay=decay).rate
    assert type(decay) in kinds_of(Decay)
    np.testing.assert_allclose([rate(0), rate(10)], [2.0 / 11, 2.0], rtol=1e-6)
    np.testing.assert_allclose(rate(55), 2.0 * middle, rtol=1e-5)
    np.testing.assert_allclose(rate(100), 2.0 * last, atol=1e-6)


def test_wrong_settings():
    for build, message in (
        (lambda: CosineDecay(2.0), "decay.final: 2.0 must be between 0 and 1"),
        (lambda: WarmupStableDecay(-1.0), "decay.share"),
        (lambda: Training(patience=0), "patience: 0 must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            build()


def test_muon_makes_hidden_weights_orthogonal_and_leaves_the_rest_to_adamw():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    gradient = {
        "patches": {"kernel": draw(16, 32)},
        "block0": {"out": {"kernel": draw(16, 32), "bias": draw(32)}, "modulation": {"kernel": draw(16, 32)}},
        "blocks1": {"out": {"kernel": draw(3, 16, 32)}},
        "mid_block0": {"conv1": {"kernel": draw(3, 3, 4, 64)}},
    }
    taken = hidden(gradient)
    assert taken["block0"]["out"] == {"kernel": ((0,), 1), "bias": None}
    assert taken["blocks1"]["out"]["kernel"] == ((1,), 2)
    assert taken["mid_block0"]["conv1"]["kernel"] == ((0, 1, 2), 3)
    assert taken["patches"]["kernel"] is None and taken["block0"]["modulation"]["kernel"] is None

    optimizer = Muon(rms=0.2).make(optax.constant_schedule(1.0))
    params = jax.tree.map(jnp.zeros_like, gradient)
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    stacked = update["blocks1"]["out"]["kernel"]
    conv = update["mid_block0"]["conv1"]["kernel"].reshape(36, 64)
    for matrix in (update["block0"]["out"]["kernel"], *stacked, conv):
        singular = np.linalg.svd(np.asarray(matrix), compute_uv=False) / (0.2 * np.sqrt(max(matrix.shape)))
        assert singular.min() > 0.6 and singular.max() < 1.3  # five steps of Newton and Schulz aim at 0.7 to 1.2
    for matrix in (update["patches"]["kernel"], update["block0"]["modulation"]["kernel"]):
        np.testing.assert_allclose(jnp.abs(matrix), jnp.abs(matrix).max(), rtol=1e-4)  # Adam's first step: all alike
