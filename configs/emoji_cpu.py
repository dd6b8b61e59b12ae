"""Text to image on Fluent emoji at 32 px, sized for two CPU cores.

    $ python train.py configs/emoji_cpu.py

The networks of the quickstart, told one of the picture's names by a text encoder trained with them. 55 minutes on two
CPU cores (x86-64, JAX 0.10.2), compilation included. Of names seen in training expect 71 % of the pictures to be
nearest to their own among 100 (`python benchmarks/emoji_uses.py text runs/emoji_cpu --num 500`).
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.conditions.text import Text, TrainedEncoder
from ldm_jax.configfile import load_config
from ldm_jax.diffusion.guidance_choices import ClassifierFree
from ldm_jax.stages import AutoencoderTraining


def get_config() -> Config:
    quickstart = load_config(Path(__file__).with_name("quickstart.py"))
    # So strong a KL term makes the decoder bear noise of 0.5 in the latents: what is left of it in samples hurts less.
    loss = dataclasses.replace(quickstart.stage(AutoencoderTraining).loss, kl_weight=1e-2)
    config = dataclasses.replace(
        quickstart,
        data=dataclasses.replace(quickstart.data, source="bundled:emoji"),
        # Of 4 channels four in ten reconstructions are nearer to another picture (`benchmarks/emoji_uses.py text`).
        autoencoder=dataclasses.replace(quickstart.autoencoder, image_channels=3, latent_channels=16),
        conditions=(Text(TrainedEncoder(width=192, depth=2, heads=4), length=12, dropout=0.1),),
        # Guided at low noise, too, pictures get a grain.
        sampling=dataclasses.replace(quickstart.sampling, steps=50, rule=ClassifierFree(interval=(0.3, 1.0))),
    )
    return config.with_stages(
        autoencoder={"steps": 1500, "sample_every": 1500, "checkpoint_every": 500, "loss": loss},
        denoiser={
            "steps": 4500,
            "learning_rate": 2e-3,
            "posterior": "mean",
            "ema": 0.999,
            "log_every": 100,
            "sample_every": 2250,
            "checkpoint_every": 500,
        },
    )
