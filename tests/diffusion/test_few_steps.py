"""Every grid x schedule x sampler at 1, 2 and 3 steps: finite, and from noise to the data where these are one point.

Eager, so that nothing is compiled for each of them: all grids of a schedule are rows of one batch, under `jax.vmap`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import grids, samplers
from ldm_jax.diffusion.prediction import Estimate
from ldm_jax.diffusion.samplers import SAMPLERS
from ldm_jax.diffusion.schedules import EDM, VP, Cosine, DiscreteBetas, RectifiedFlow, Rescaled, Shifted
from ldm_jax.errors import InputError

SCHEDULES = {
    "flow": RectifiedFlow(),
    "shifted": Shifted(Cosine(), 3.0),
    "edm": EDM(),
    "rescaled": Rescaled(VP()),
    "table": DiscreteBetas(),
    "zero_snr": DiscreteBetas(steps=40, zero_snr=True),
}
LEVELS = ("karras", "exponential", "lu", "beta", "ays_sd15", "ays_sdxl")
"""Grids that need a schedule's smallest and largest level, which only some have."""


def every_grid(schedule, steps):
    """[grids, steps + 1] and their names; refusals are of grids without levels alone."""
    found = {}
    for name, make in grids.GRIDS.items():
        try:
            found[name] = np.asarray(make(schedule, steps))
        except InputError:
            assert name in LEVELS, name
    for options in ({"terminal": 0.1}, {"s": 3.0, "last": 0.01}, {"s": 3.0, "terminal": 0.1}):
        found[f"flow{options}"] = np.asarray(grids.flow(steps, **options))
    found["beta over t"] = np.asarray(grids.beta(schedule, steps, over="t"))
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_grid_and_sampler_at_few_steps_is_finite(name):
    schedule = SCHEDULES[name]

    def denoise(z, t):
        # All data are 0.5: the estimate is right at every level, and 0 of eps where there is none.
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return Estimate(jnp.full_like(z, 0.5), (z - alpha * 0.5) / jnp.where(sigma == 0, 1.0, sigma))

    for steps in (1, 2, 3):
        rows = every_grid(schedule, steps)
        for label, row in rows.items():
            assert row.shape == (steps + 1,), label
            grids.check(row)
        every = jnp.asarray(np.stack(list(rows.values())))
        # z = alpha 0.5 + sigma eps at each grid's first time.
        alpha, sigma = schedule.alpha(every[:, 0]), schedule.sigma(every[:, 0])
        eps = jnp.asarray([[1.3], [-0.6]])
        z = alpha[:, None, None] * 0.5 + sigma[:, None, None] * eps[None]
        for label, make in SAMPLERS.items():
            sampler = make()

            def draw(grid, z, sampler=sampler):
                noise = lambda index, k: jnp.asarray([[0.4], [-0.9]])  # noqa: E731
                return samplers.sample(denoise, sampler, schedule, grid, z, jax.random.key(0), noise=noise)

            with jax.disable_jit():
                got = np.asarray(jax.vmap(draw)(every, z))
            assert np.isfinite(got).all(), (label, steps)
            if label in ("ddim", "euler", "heun", "dpmpp_2m", "unipc", "deis", "plms"):
                np.testing.assert_allclose(got, 0.5, atol=5e-3, err_msg=f"{label}, {steps} steps")
