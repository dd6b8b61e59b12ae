"""Latent diffusion models in JAX and Flax: from a folder of images to a model, its samples and its numbers."""

from ldm_jax.config import Config
from ldm_jax.diffusion import grids, guidance, samplers, schedules
from ldm_jax.diffusion.samplers import sample
from ldm_jax.pipeline import LatentDiffusion, load

__all__ = ["Config", "LatentDiffusion", "grids", "guidance", "load", "sample", "samplers", "schedules"]
