"""LDM's UNet in place of the transformer: the quickstart with the other denoiser.

$ python train.py configs/unet.py
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.config import load_config
from ldm_jax.models import UNetConfig


def get_config() -> Config:
    quickstart = load_config(Path(__file__).with_name("quickstart.py"))
    unet = UNetConfig(
        channels=(64, 128), blocks=2, attention=(0, 1), heads=(2, 4), groups=16, context_dim=0, num_classes=-1
    )
    return dataclasses.replace(quickstart, denoiser=unet)
