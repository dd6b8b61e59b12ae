"""Text to image on coloured shapes at 64 px, from captions such as "a large red star left of a small blue ring".

    $ python train.py configs/shapes.py

A KL autoencoder with a 4x4 stem and one more halving (latents 8x8x4), then a DiT of 5.1 M parameters that attends to
the words through a transformer trained with it. 12 min 44 s on two CPU cores (x86-64, JAX 0.10.2), compilation
included. Of 1,000 captions whose pairs of colour and shape never occurred in training expect 99 % of single objects
right, 88 % of pictures of two (`python benchmarks/shapes.py runs/shapes`).
"""

from ldm_jax import Config
from ldm_jax.conditions.text import Text, TrainedEncoder
from ldm_jax.config import DataConfig
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.samplers import Euler
from ldm_jax.diffusion.schedules import RectifiedFlow
from ldm_jax.diffusion.time_choices import LogitNormal
from ldm_jax.models import AutoencoderConfig, DiTConfig
from ldm_jax.pipeline import Sampling
from ldm_jax.stages import AutoencoderLoss, AutoencoderTraining, DenoiserTraining


def get_config() -> Config:
    autoencoder = AutoencoderConfig(
        image_channels=3,
        latent_channels=4,
        channels=64,
        multipliers=(1, 1),
        blocks=1,
        stem=4,
        groups=16,
        attention=False,
    )
    denoiser = DiTConfig(patch=2, width=192, depth=6, heads=3, norm="rms", mlp="swiglu", rope=True, qk_norm=True)
    return Config(
        data=DataConfig(source="bundled:shapes", image_size=64, batch_size=64),
        autoencoder=autoencoder,
        conditions=(Text(TrainedEncoder(width=192, depth=2, heads=3), length=24, dropout=0.1),),
        denoiser=denoiser,
        process=Process(RectifiedFlow(), "flow", times=LogitNormal()),
        stages=(
            AutoencoderTraining(
                steps=900,
                learning_rate=2e-3,
                warmup=50,
                ema=0.99,
                sample_every=300,
                checkpoint_every=300,
                loss=AutoencoderLoss(reconstruction="l2", kl_weight=1e-4),
            ),
            DenoiserTraining(
                steps=2000, learning_rate=1e-3, warmup=100, ema=0.995, sample_every=1000, checkpoint_every=500
            ),
        ),
        sampling=Sampling(Euler(), steps=25, guidance=3.0),
    )
