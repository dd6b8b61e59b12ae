"""Objectives of averages over intervals: what the network is asked for in training, and when samples are drawn."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions import Label, LabelCondition
from ldm_jax.config import Config
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.samplers import Euler
from ldm_jax.diffusion.schedules import Cosine
from ldm_jax.diffusion.time_choices import Uniform
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning, DiT, DiTConfig, UNetConfig, apply
from ldm_jax.pipeline.compiled import denoiser
from ldm_jax.pipeline.recipe import ClassifierFree, Recipe
from ldm_jax.stages import DenoiserTraining
from ldm_jax.stages.denoiser_loss import denoiser_loss
from ldm_jax.stages.objectives import MeanFlow, Shortcut
from ldm_jax.training.stage import Context

KEYS = jax.random.split(jax.random.key(0), 8)
SIZES = {"in_channels": 2, "out_channels": 2, "patch": 2, "width": 8, "depth": 1, "heads": 2, "num_classes": 3}
DENOISER = DiT(DiTConfig(**SIZES, interval=True))
LABELS = (LabelCondition(("a", "b", "c"), 0.1),)
EACH = pytest.mark.parametrize(
    "objective", [MeanFlow(), MeanFlow(tangent="network", guidance=2.0, mixing=0.5, share=1.0), Shortcut(share=1.0)]
)


def batch(n=8):
    mean = jax.random.normal(jax.random.key(2), (n, 4, 4, 2))
    told = {"label": {"label": jnp.arange(n) % 3}}
    return {"mean": mean, "logvar": jnp.full_like(mean, -20.0), "conditions": told}


@pytest.fixture(scope="module")
def params():
    """Of a network that is not the zero function."""
    shapes = jax.eval_shape(DENOISER.init, jax.random.key(0), *DENOISER.example_inputs())["params"]
    rng = np.random.default_rng(0)
    return {"denoiser": jax.tree.map(lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), x.dtype), shapes)}


def loss_of(objective):
    return denoiser_loss(DENOISER, Process(), jnp.zeros(2), jnp.ones(2), LABELS, objective=objective)


@EACH
def test_one_loss_an_example_with_a_gradient_for_every_parameter(objective, params):
    def mean(params):
        loss, _ = loss_of(objective)(params, batch(), KEYS, Context(ema=params))
        chex.assert_shape(loss, (8,))
        return loss.mean(), loss

    (_, loss), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(params)
    chex.assert_tree_all_finite(gradient)
    assert loss.min() > 0.0 and len(np.unique(loss)) == 8
    assert all(np.abs(leaf).max() > 0.0 for leaf in jax.tree.leaves(gradient))


def test_shortcuts_are_measured_by_the_averaged_network(params):
    loss = jax.jit(loss_of(Shortcut(share=1.0)))
    other = jax.tree.map(lambda x: 2.0 * x, params)
    own, averaged = (loss(params, batch(), KEYS, Context(ema=ema))[0] for ema in (params, other))
    assert np.abs(own - averaged).max() > 1e-3
    # Where there is none, as for what is held out, by itself.
    np.testing.assert_array_equal(loss(params, batch(), KEYS, Context())[0], own)


def test_guidance_is_part_of_what_is_learnt(params):
    plain, guided, mixed = (
        jax.jit(loss_of(MeanFlow(share=1.0, power=0.0, **settings)))(params, batch(), KEYS, Context())[0]
        for settings in ({}, {"guidance": 3.0}, {"mixing": 0.5})
    )
    assert np.abs(plain - guided).max() > 0.1
    assert np.abs(plain - mixed).max() > 0.1


def test_a_step_is_one_average_over_it(params):
    z = jax.random.normal(jax.random.key(1), (2, 4, 4, 2))
    cond = Conditioning(label=jnp.asarray([0, 2]))

    def asked(sampler, t, cond, null=None, guidance=1.0):
        recipe = Recipe(Process(), sampler, 4)
        fn = denoiser(DENOISER, recipe, ClassifierFree(), params["denoiser"], cond, null, guidance)
        found = fn(z, jnp.asarray(t, jnp.float32))
        return found.eps - found.x0

    def network(t, interval):
        told = cond._replace(interval=jnp.full(2, interval, jnp.float32))
        return apply(DENOISER, params["denoiser"], z, jnp.full(2, t, jnp.float32), told)

    for t in (1.0, 0.75, 0.25):
        np.testing.assert_allclose(asked(Euler(variable="flow"), t, cond), network(t, 0.25), atol=1e-5)
    assert np.abs(network(0.75, 0.25) - network(0.75, 0.0)).max() > 1e-4
    # Other samplers, and whoever evaluates it elsewhere, get the velocity.
    np.testing.assert_allclose(asked(Euler(variable="rho"), 0.75, cond), network(0.75, 0.0), atol=1e-5)
    np.testing.assert_allclose(apply(DENOISER, params["denoiser"], z, 0.75, cond), network(0.75, 0.0), atol=1e-6)
    null = Conditioning(label=jnp.asarray([3, 3]))
    twice = asked(Euler(variable="flow"), 0.75, cond, cond, 2.0)
    np.testing.assert_allclose(twice, network(0.75, 0.25), atol=1e-5)
    assert np.abs(asked(Euler(variable="flow"), 0.75, cond, null, 2.0) - twice).max() > 1e-4


def test_what_does_not_go_together_is_refused():
    def config(objective=MeanFlow(), denoiser=DiTConfig(), conditions=(Label(),), **process):  # noqa: B008
        stages = (*Config().stages[:1], DenoiserTraining(objective=objective))
        return Config(stages=stages, denoiser=denoiser, conditions=conditions, process=Process(**process))

    assert config().stage(DenoiserTraining).objective == MeanFlow()
    assert config(times=Uniform()) and config(Shortcut())
    for make, message in (
        (lambda: config(schedule=Cosine()), "MeanFlow needs process.schedule rectified_flow"),
        (lambda: config(prediction="v"), "MeanFlow needs process.schedule"),
        (lambda: config(distance="l1"), "of process only the times"),
        (lambda: config(denoiser=UNetConfig()), "needs a network that is told intervals, such as DiT"),
        (lambda: config(MeanFlow(guidance=2.0), conditions=(Label(dropout=0.0),)), "guidance 2.0 needs a condition"),
        (lambda: MeanFlow(share=0.0), "share: 0.0"),
        (lambda: MeanFlow(mixing=1.0), "mixing: 1.0"),
        (lambda: MeanFlow(guidance=float("nan")), "guidance: nan"),
        (lambda: Shortcut(share=2.0), "share: 2.0"),
        (lambda: Shortcut(halvings=0), "halvings: 0"),
    ):
        with pytest.raises(InputError, match=message):
            make()


def test_json_both_ways():
    config = dataclasses.replace(Config(), stages=(*Config().stages[:1], DenoiserTraining(objective=Shortcut(0.5))))
    assert Config.from_json(config.to_json()) == config
