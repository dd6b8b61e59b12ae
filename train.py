"""Trains an experiment: python train.py configs/quickstart.py (see --help)."""

import sys

from ldm_jax.cli import leave, run

if __name__ == "__main__":
    leave(run("train", sys.argv[1:]))
