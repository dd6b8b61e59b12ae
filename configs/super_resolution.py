"""Fashion-MNIST from 8 px to 32 px: the quickstart, told a small version of the image.

    $ python train.py configs/super_resolution.py

The denoiser sees the image averaged over blocks of 4 pixels, joined to z (LDM, section 4.4), and its class. A tenth of
the examples is trained without either, so that guidance can be chosen. About as long as the quickstart on two CPU
cores; its quality was not measured yet. Pictures of 8 px are enlarged by
`python sample.py runs/super_resolution --image FILE ...`.
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.conditions import Label
from ldm_jax.conditions.low_resolution import LowResolution
from ldm_jax.configfile import load_config


def get_config() -> Config:
    quickstart = load_config(Path(__file__).with_name("quickstart.py"))
    conditions = (Label(dropout=0.1), LowResolution(factor=4, dropout=0.1))
    return dataclasses.replace(quickstart, conditions=conditions)
