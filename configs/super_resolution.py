"""Super-resolution of Fluent emoji from 16 px to 64 px: the denoiser is told a small version of the image.

    $ python train.py configs/super_resolution.py

The networks of configs/emoji.py, told the image averaged over blocks of 4 pixels (LDM, section 4.4) in place of a text:
`--autoencoder-from runs/emoji --autoencoder-trains nothing` takes its autoencoder. Afterwards `python sample.py
runs/super_resolution --image FILE ...` enlarges pictures of 16 px.
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.conditions.low_resolution import LowResolution
from ldm_jax.configfile import load_config


def get_config() -> Config:
    emoji = load_config(Path(__file__).with_name("emoji.py"))
    sampling = dataclasses.replace(emoji.sampling, guidance=1.0)
    return dataclasses.replace(emoji, conditions=(LowResolution(factor=4, dropout=0.1),), sampling=sampling)
