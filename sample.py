"""Draws images from a trained model: python sample.py runs/quickstart (see --help)."""

import sys

from ldm_jax.cli import leave, run

if __name__ == "__main__":
    leave(run("sample", sys.argv[1:]))
