"""diffusers' schedulers retraced: trajectories against tests/reference/diffusers_schedulers.npz."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import samplers
from ldm_jax.diffusion.samplers.base import run
from ldm_jax.pretrained.schedulers import from_diffusers_scheduler

FILE = Path(__file__).parents[1] / "reference" / "diffusers_schedulers.npz"
with np.load(FILE) as data:
    CASES = json.loads(data["index"].tobytes())["cases"]
    WIDE, NARROW = data["float64"], data["float32"]
ENDS = np.cumsum([case["length"] for case in CASES])


def noise(index):
    return np.random.default_rng(1000 + index).standard_normal((1, 2, 1, 1)).reshape(1, 2)


def network(x, timestep):
    """The network of the script that made the trajectories."""
    mix = jnp.asarray([[0.9, -0.5], [0.4, 0.7]], x.dtype)
    bias = jnp.asarray([0.3, -0.6], x.dtype)
    wave = jnp.sin(timestep.astype(x.dtype) * 0.003 + 1.0)
    return 0.7 * jnp.tanh(x @ mix.T + (bias * wave)[None])


def retrace(case, dtype, compat="diffusers"):
    """Our samples after each step, in the scheduler's units: [n, 2]."""
    config, steps = case["config"], case["steps"]
    seq_len = 1024 if config.get("use_dynamic_shifting") else None
    plan = from_diffusers_scheduler(config, steps, compat, image_seq_len=seq_len)
    table = jnp.asarray(np.stack([noise(i) for i in range(steps)]), dtype)
    start = plan.initial(jnp.asarray(noise(-1), dtype))

    def units(z, estimate, at):
        return z / at.schedule.alpha(at.s) if in_sigma(config) else z

    _, seen = run(
        plan.denoise(network), plan.sampler, plan.schedule, plan.grid, start, jax.random.key(0),
        noise=lambda index, k: table[jnp.minimum(index, steps - 1)], observe=units,
    )  # fmt: skip
    return np.asarray(seen).reshape(-1, 2)


def in_sigma(config):
    name = config["_class_name"]
    return "FlowMatch" not in name and any(part in name for part in ("Euler", "Heun", "KDPM2", "LMS"))


def label(case):
    config = case["config"]
    hidden = ("_class_name", "beta_start", "beta_end", "beta_schedule")
    own = ",".join(f"{k}={v}" for k, v in config.items() if k not in hidden)
    return f"{config['_class_name'].removesuffix('Scheduler')}[{own}]-{case['steps']}"


def scale_of(path):
    return np.maximum(np.abs(path), np.abs(path).max(axis=-1, keepdims=True))
