"""The parts of a trained model together: loaded, sampled from, saved."""

from ldm_jax.pipeline.devices import everywhere
from ldm_jax.pipeline.folder import load
from ldm_jax.pipeline.model import LatentDiffusion, to_uint8
from ldm_jax.pipeline.process import Process, Scheduler, make_schedule
from ldm_jax.pipeline.prompts import Encoder, TextConditioner

__all__ = [
    "Encoder",
    "LatentDiffusion",
    "Process",
    "Scheduler",
    "TextConditioner",
    "everywhere",
    "load",
    "make_schedule",
    "to_uint8",
]
