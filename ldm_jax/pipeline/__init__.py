"""The parts of a trained model together: encoded, decoded, sampled from, loaded and saved.

Here belongs what needs several parts at once but trains nothing: LatentDiffusion, folders in and out, how samples are
drawn. One part's files are in pretrained/, what conditions ask for in conditions/, what a model is used for in tasks/.
"""

from ldm_jax.conditions import Encoder, TextConditioner
from ldm_jax.metrics.rounding import to_uint8
from ldm_jax.pipeline.devices import everywhere
from ldm_jax.pipeline.model import LatentDiffusion
from ldm_jax.pipeline.reading import load
from ldm_jax.pipeline.recipe import OwnSampler, Recipe, Sampling, Scheduler, name_of

__all__ = [
    "Encoder",
    "LatentDiffusion",
    "OwnSampler",
    "Recipe",
    "Sampling",
    "Scheduler",
    "TextConditioner",
    "everywhere",
    "load",
    "name_of",
    "to_uint8",
]
