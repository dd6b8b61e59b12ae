"""The forward and the reverse process of a model, step by step, as pictures and numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ldm_jax import seeds
from ldm_jax.diffusion.samplers import normal
from ldm_jax.diffusion.schedules import logsnr
from ldm_jax.images import grid
from ldm_jax.metrics.rounding import to_uint8
from ldm_jax.web.drawing import Asked, Studio
from ldm_jax.web.watching import Seen, listening

COLUMNS = 8


class Row(NamedTuple):
    """The process at one time."""

    t: float
    alpha: float
    sigma: float
    logsnr: float
    """log(alpha^2 / sigma^2); infinite where one of them is 0."""


class Explained(NamedTuple):
    """What the page shows; every picture has COLUMNS columns, one for each of `times`."""

    forward: UInt8[np.ndarray, "h w c"]
    """A drawn image, more and more of it noise: z_t = alpha(t) x0 + sigma(t) eps, decoded. From data to noise."""
    reverse: UInt8[np.ndarray, "h w c"]
    """Above z_t as the sampler has it, below the estimate of x0 at that time, both decoded. From noise to data."""
    forward_times: list[Row]
    reverse_times: list[Row]
    curve: Float[np.ndarray, "n 3"]
    """t, alpha(t), sigma(t) over [0, 1]."""


def explain(studio: Studio, asked: Asked) -> Explained:
    """Draws one picture, keeps what every evaluation saw, and noises the result again."""
    model, seen = studio.model, list[Seen]()
    how, key = studio.how(asked._replace(num=1)), seeds.key(int(asked.seed))
    with listening(seen.append):
        z0 = jnp.asarray(model.sample(key, num=1, output="latents", **how))
    kept = [seen[i] for i in np.linspace(0, len(seen) - 1, COLUMNS).round().astype(int)]
    steps = np.concatenate([np.concatenate([one.z for one in kept]), np.concatenate([one.x0 for one in kept])])
    times = jnp.linspace(0.0, 1.0, COLUMNS)
    eps = normal(jax.random.split(key, 1), z0)
    schedule = model.recipe(how["steps"], how["sampler"]).plan().schedule
    shape = (COLUMNS, 1, 1, 1)
    noised = schedule.alpha(times).reshape(shape) * z0 + schedule.sigma(times).reshape(shape) * eps
    over = jnp.linspace(0.0, 1.0, 101)
    curve = np.stack([np.asarray(v) for v in (over, schedule.alpha(over), schedule.sigma(over))], axis=1)
    return Explained(
        grid(_decoded(model, noised), COLUMNS),
        grid(_decoded(model, steps), COLUMNS),
        _rows(schedule, np.asarray(times)),
        _rows(schedule, np.asarray([one.t for one in kept])),
        curve,
    )


def _decoded(model: Any, z: Any) -> UInt8[np.ndarray, "b h w c"]:
    return np.asarray(to_uint8(model.decode(z)))


def _rows(schedule: Any, times: np.ndarray) -> list[Row]:
    t = jnp.asarray(times, jnp.float32)
    columns = (times, schedule.alpha(t), schedule.sigma(t), logsnr(schedule, t))
    return [Row(*map(float, row)) for row in zip(*map(np.asarray, columns), strict=True)]
