"""Layout to image on coloured shapes at 64 px: objects and their boxes as tokens.

    $ python train.py configs/layout.py

The networks of configs/shapes.py, whose DiT attends to the tokens of boxes (GLIGEN, Li et al. 2023, arXiv 2301.07093)
in place of words; `--autoencoder-from runs/shapes --autoencoder-trains nothing` takes its autoencoder. A class such as
"red star" is the sum of its words, for the test split has pairs of colour and shape that training never shows.
Afterwards `python sample.py runs/layout --layout FILE.json` draws [[["red ring", [0.1, 0.1, 0.4, 0.4]]], ...], boxes in
units of the sides.
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.conditions.layout import Layout
from ldm_jax.configfile import load_config


def get_config() -> Config:
    shapes = load_config(Path(__file__).with_name("shapes.py"))
    layout = Layout(boxes=4, width=192, words=True, dropout=0.1)
    return dataclasses.replace(shapes, conditions=(layout,))
