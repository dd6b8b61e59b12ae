"""Runs an evaluation: a model or samples, a reference and feature networks in, a report out."""

from ldm_jax.evaluation.run import Options, evaluate

__all__ = ["Options", "evaluate"]
