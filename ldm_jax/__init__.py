"""Latent diffusion models in JAX and Flax: from a folder of images to a model, its samples and its numbers."""

from importlib.metadata import PackageNotFoundError, version

from ldm_jax.config import Config
from ldm_jax.diffusion import grids, guidance, samplers, schedules
from ldm_jax.diffusion.samplers import sample
from ldm_jax.pipeline import LatentDiffusion, load

try:
    __version__ = version("ldm-jax")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["Config", "LatentDiffusion", "__version__", "grids", "guidance", "load", "sample", "samplers", "schedules"]
