"""Text to image on Fluent emoji at 64 px, sized for one GPU.

    $ python train.py configs/emoji.py

An autoencoder with a 4x4 stem (latents 16x16x8), then a DiT of 26 M parameters that is told one of the picture's
names by a text encoder trained with it. configs/emoji_cpu.py is the same at 32 px for two CPU cores;
configs/inpainting.py and configs/super_resolution.py put other conditions in the place of the text.
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
        latent_channels=8,
        channels=128,
        multipliers=(1,),
        blocks=2,
        stem=4,
        groups=32,
        attention=False,
    )
    denoiser = DiTConfig(patch=2, width=384, depth=8, heads=6, norm="rms", mlp="swiglu", rope=True, qk_norm=True)
    return Config(
        data=DataConfig(source="bundled:emoji", image_size=64, batch_size=128),
        autoencoder=autoencoder,
        conditions=(Text(TrainedEncoder(width=256, depth=2, heads=4), length=24, dropout=0.1),),
        denoiser=denoiser,
        process=Process(RectifiedFlow(), "flow", times=LogitNormal()),
        stages=(
            AutoencoderTraining(
                steps=3000,
                learning_rate=1e-3,
                warmup=100,
                ema=0.995,
                dtype="bfloat16",
                log_every=500,
                sample_every=3000,
                checkpoint_every=1500,
                loss=AutoencoderLoss(reconstruction="l1", kl_weight=1e-5),
            ),
            DenoiserTraining(
                steps=4000,
                learning_rate=5e-4,
                warmup=200,
                ema=0.999,
                dtype="bfloat16",
                log_every=500,
                sample_every=4000,
                checkpoint_every=4000,
            ),
        ),
        sampling=Sampling(Euler(), steps=50, guidance=3.0),
    )
