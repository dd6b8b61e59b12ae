"""Your own images at 64 px: a folder with one sub-folder a class (or images alone, then without classes).

    $ python train.py configs/folder.py --data.source folder:PATH

The bundled images are small and grey, so this one starts from yours: a KL autoencoder with convolutions from a 4x4
space-to-depth stem and one halving (f8, 8x8x4 latents), and a DiT of 33 M parameters. Made for a GPU; for a trial on a
CPU add --smoke. A tenth of the images is held out for the reconstruction pictures.
"""

from ldm_jax import Config
from ldm_jax.conditions import Label
from ldm_jax.config import DataConfig
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.samplers import SAMPLER_CHOICES
from ldm_jax.models import AutoencoderConfig, DiTConfig
from ldm_jax.pipeline import Sampling
from ldm_jax.stages import AutoencoderLoss, AutoencoderTraining, DenoiserTraining


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder:images", image_size=64, batch_size=64, flip=True),
        autoencoder=AutoencoderConfig(
            image_channels=3, latent_channels=4, channels=128, multipliers=(1, 2), blocks=2, stem=4, attention=True
        ),
        conditions=(Label(dropout=0.1),),
        denoiser=DiTConfig(patch=1, width=384, depth=12, heads=6, norm="rms", mlp="swiglu", rope=True, qk_norm=True),
        process=Process(),
        stages=(
            AutoencoderTraining(
                steps=20_000, learning_rate=5e-4, warmup=500, loss=AutoencoderLoss(reconstruction="l1", kl_weight=1e-3)
            ),
            DenoiserTraining(steps=100_000, learning_rate=3e-4, warmup=1000, ema=0.9995, sample_every=5000),
        ),
        sampling=Sampling(SAMPLER_CHOICES["heun"](), steps=25, guidance=2.0),
    )
