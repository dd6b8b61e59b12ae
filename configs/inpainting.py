"""Inpainting and outpainting of Fluent emoji at 64 px: the denoiser is told the image without what is to be painted.

    $ python train.py configs/inpainting.py

The networks of configs/emoji.py, told a masked image in place of a text: `--autoencoder-from runs/emoji
--autoencoder-trains nothing` takes its autoencoder. Afterwards `python sample.py runs/inpainting --image FILE --mask
MASK` paints.
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.conditions.masked_image import MaskedImage
from ldm_jax.configfile import load_config


def get_config() -> Config:
    emoji = load_config(Path(__file__).with_name("emoji.py"))
    sampling = dataclasses.replace(emoji.sampling, guidance=1.0)
    return dataclasses.replace(emoji, conditions=(MaskedImage(dropout=0.1),), sampling=sampling)
