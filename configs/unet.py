"""LDM's UNet in place of the transformer: the quickstart with the other denoiser.

    $ python train.py configs/unet.py

Residual blocks at 8x8 and 4x4 latents, attention at 4x4, 4.0 M parameters. On two CPU cores (x86-64, JAX 0.10.2) both
stages take about eight minutes, compilation included. Expect, at guidance 3, an accuracy of 94 % where the quickstart
has 91 % (`python benchmarks/quickstart.py runs/unet`).
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.configfile import load_config
from ldm_jax.models import UNetConfig


def get_config() -> Config:
    quickstart = load_config(Path(__file__).with_name("quickstart.py"))
    unet = UNetConfig(
        channels=(64, 128), blocks=2, attention=(0, 1), heads=(2, 4), groups=16, context_dim=0, num_classes=-1
    )
    return dataclasses.replace(quickstart, denoiser=unet)
