"""What a finished run with conditions must do: it is loaded, asked for pictures, saved, and asked once more."""

import chex
import jax
import numpy as np

import ldm_jax
from ldm_jax.conditions import CONDITIONS

NAMES = {config: name for name, config in CONDITIONS}


def check_asked(run, asks, folder):
    """run: a finished one; asks: of `LatentDiffusion.sample`, for two pictures; folder: for a copy of the model."""
    model, size, channels = ldm_jax.load(run.workdir), run.config.data.image_size, run.config.autoencoder.image_channels
    assert [c.name for c in model.conditions] == [NAMES[type(c).__name__] for c in run.config.conditions]
    # Text conditions hold parameters, which don't compare.
    if "text" not in [c.name for c in model.conditions]:
        assert model.conditions == ldm_jax.load(run.workdir).conditions
    drawn = model.sample(jax.random.key(0), steps=2, guidance=2.0, **asks)
    assert drawn.shape == (2, size, size, channels)
    for condition in model.conditions:
        if params := model.condition_params.get(condition.name):
            chex.assert_trees_all_equal_shapes(params, condition.init(jax.random.key(0)))
    if model.condition_params:
        model.save(folder)
        again = ldm_jax.load(folder).sample(jax.random.key(0), steps=2, guidance=2.0, **asks)
        np.testing.assert_array_equal(again, drawn)
