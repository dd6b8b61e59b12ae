"""Trains an experiment: python train.py configs/quickstart.py (see --help)."""

import sys

from ldm_jax.cli import run

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:]))
