"""Measures a model or samples: python evaluate.py runs/quickstart --reference bundled:fashion_mnist (see --help)."""

import sys

from ldm_jax.cli import run

if __name__ == "__main__":
    sys.exit(run("evaluate", sys.argv[1:]))
