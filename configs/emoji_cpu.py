"""Text to image on Fluent emoji at 32 px, sized for two CPU cores.

    $ python train.py configs/emoji_cpu.py

The networks of the quickstart, told one of the picture's names by a text encoder trained with them.
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.conditions.text import Text, TrainedEncoder
from ldm_jax.configfile import load_config


def get_config() -> Config:
    quickstart = load_config(Path(__file__).with_name("quickstart.py"))
    config = dataclasses.replace(
        quickstart,
        data=dataclasses.replace(quickstart.data, source="bundled:emoji"),
        autoencoder=dataclasses.replace(quickstart.autoencoder, image_channels=3),
        conditions=(Text(TrainedEncoder(width=192, depth=2, heads=4), length=12, dropout=0.1),),
        sampling=dataclasses.replace(quickstart.sampling, steps=50),
    )
    return config.with_stages(
        autoencoder={"steps": 1000, "sample_every": 1000, "checkpoint_every": 500},
        denoiser={"steps": 5000, "ema": 0.999, "log_every": 200, "sample_every": 2500, "checkpoint_every": 1000},
    )
