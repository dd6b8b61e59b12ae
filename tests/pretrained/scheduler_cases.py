"""What the tests of diffusers' schedulers share: configs, a network, the end of a plan."""

import jax.numpy as jnp

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def config(name, **options):
    return {"_class_name": name + "Scheduler", **SD, **options}


def final(plan):
    """Noise left at the end of the grid."""
    return float(plan.schedule.sigma(plan.grid[-1]))


def network(x, timestep):
    """The network of the script that made the trajectories."""
    mix = jnp.asarray([[0.9, -0.5], [0.4, 0.7]], x.dtype)
    bias = jnp.asarray([0.3, -0.6], x.dtype)
    wave = jnp.sin(timestep.astype(x.dtype) * 0.003 + 1.0)
    return 0.7 * jnp.tanh(x @ mix.T + (bias * wave)[None])
