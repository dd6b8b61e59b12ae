"""The smallest experiment that walks the whole path: two stages of a few steps, a checkpoint every third."""

from ldm_jax import Config
from ldm_jax.conditions import Label
from ldm_jax.config import DataConfig
from ldm_jax.diffusion.samplers import Euler
from ldm_jax.models import AutoencoderConfig, DiTConfig
from ldm_jax.pipeline import Sampling
from ldm_jax.stages import AutoencoderLoss, AutoencoderTraining, DenoiserTraining


def get_config() -> Config:
    often = {"steps": 12, "warmup": 2, "log_every": 1, "sample_every": 6, "checkpoint_every": 3}
    return Config(
        data=DataConfig(source="bundled:fashion_mnist", image_size=8, batch_size=8, limit=32),
        autoencoder=AutoencoderConfig(
            image_channels=1, channels=8, multipliers=(1,), blocks=1, stem=4, groups=4, attention=False
        ),
        conditions=(Label(dropout=0.1),),
        denoiser=DiTConfig(patch=1, width=16, depth=1, heads=2),
        stages=(
            AutoencoderTraining(**often, loss=AutoencoderLoss(reconstruction="l2")),
            DenoiserTraining(**often),
        ),
        sampling=Sampling(Euler(), steps=2),
    )
