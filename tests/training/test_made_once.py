"""What is made once is given again for equal settings, and nothing else is kept alive."""

import gc
import weakref
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions import LabelCondition
from ldm_jax.diffusion.process import Process
from ldm_jax.models import DiT, DiTConfig
from ldm_jax.stages import AutoencoderTraining
from ldm_jax.stages.autoencoder import first_stage_optimizer
from ldm_jax.stages.denoiser_loss import denoiser_loss, own_weights
from ldm_jax.training import made_once as module
from ldm_jax.training.made_once import made_once

DENOISER = DiTConfig(patch=1, width=16, depth=1, heads=2)


class Pair(NamedTuple):
    first: Callable
    second: Callable


@made_once
def adder(n):
    return lambda x: x + n


@made_once
def both(f, g=None):
    return Pair(lambda x: f(x), lambda x: x)


def local():
    return lambda x: x


def test_equal_settings_share_one_program():
    assert adder(1) is adder(1) and adder(1) is not adder(2)
    # What such a maker has made is itself a value, in a tuple, too.
    assert both(adder(1)) is both(adder(1)) and both(both(adder(1)).first) is both(both(adder(1)).first)
    assert both(own_weights, (1, "a", None)) is both(own_weights, (1, "a", None))
    loss = [denoiser_loss(DiT(DENOISER), Process(), (0.0,) * 4, (1.0,) * 4, (LabelCondition(("a",)),)) for _ in "ab"]
    assert loss[0] is loss[1]
    rules = [first_stage_optimizer(AutoencoderTraining(steps=steps), "loss", "all") for steps in (8, 8, 9)]
    assert rules[0] is rules[1] and rules[0] is not rules[2]


@pytest.mark.parametrize("argument", [local(), [1], jnp.ones(2), (1, np.ones(2)), object()])
def test_what_is_no_value_is_made_anew(argument):
    assert both(argument) is not both(argument)


def test_nothing_with_arrays_is_kept_alive():
    class Encoder:
        def __call__(self, x):
            return x

        def method(self, x):
            return x

    encoder = Encoder()
    seen = weakref.ref(encoder)
    both(encoder)
    both(encoder.method)
    both((encoder, 1))
    denoiser_loss(DiT(DENOISER), Process(), (0.0,) * 4, (1.0,) * 4, weights=lambda params, context: encoder)
    del encoder
    gc.collect()
    assert seen() is None


def test_few_are_kept():
    first = weakref.ref(adder(100))
    for n in range(module.KEPT):
        adder(200 + n)
    gc.collect()
    assert first() is None


def test_devices_and_functions_of_modules_are_values():
    assert both(own_weights, tuple(jax.devices())) is both(own_weights, tuple(jax.devices()))
