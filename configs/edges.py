"""Edges to image on Fashion-MNIST at 32 px: the denoiser is told the edges of the image beside its class.

    $ python train.py configs/edges.py

The networks of configs/quickstart.py, told Sobel's gradient of the image, which is found in the images themselves: the
same trains on any folder (`--data.source folder:PATH`). `--autoencoder-from runs/quickstart --autoencoder-trains
nothing` takes its autoencoder. Afterwards `python sample.py runs/edges --label bag --edges-of FILE` draws a bag with
the edges of a picture, `--edges FILE` with those that are drawn white on black.
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.conditions import Label
from ldm_jax.conditions.edges import Edges
from ldm_jax.configfile import load_config


def get_config() -> Config:
    quickstart = load_config(Path(__file__).with_name("quickstart.py"))
    sampling = dataclasses.replace(quickstart.sampling, guidance=1.5)
    return dataclasses.replace(quickstart, conditions=(Label(dropout=0.1), Edges(dropout=0.1)), sampling=sampling)
