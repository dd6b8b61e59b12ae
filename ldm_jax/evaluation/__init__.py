"""Runs an evaluation: a model or samples, a reference and feature networks in, a report out.

Here belongs what is opened, drawn, compared and written down, and in which order. The numbers themselves are functions
of arrays in metrics/, feature networks are in models/ and their weights in pretrained/.
"""

from ldm_jax.evaluation.run import Options, evaluate

__all__ = ["Options", "evaluate"]
