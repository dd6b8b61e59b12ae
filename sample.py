"""Draws images from a trained model: python sample.py runs/quickstart (see --help)."""

import sys

from ldm_jax.cli import run

if __name__ == "__main__":
    sys.exit(run("sample", sys.argv[1:]))
