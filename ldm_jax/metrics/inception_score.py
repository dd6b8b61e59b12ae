"""The Inception Score and the Vendi score: how varied a set is, without a reference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from ldm_jax.errors import InputError
from ldm_jax.metrics.checks import directions, vectors


class Score(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


SPLIT = 5000
"""Images in a group of ADM's evaluator."""


def inception_score(logits: Shaped[np.ndarray, "n k"], split_size: int = SPLIT) -> Score:
    """exp of the mean divergence of p(class | image) from p(class) (Salimans et al. 2016, arXiv 1606.03498, section 4).

    logits: Inception's, without bias. The images are split in their order into groups of `split_size`, the last one
    smaller, and the mean over groups is taken, as ADM's evaluator does. Two scores compare only at the same number of
    images and size of groups: a last group of one image scores 1 by itself (`evaluate.py` says so in its notes).

    Raises:
      InputError: the logits are not finite numbers [n k].
    """
    from scipy.special import log_softmax  # slow to import

    logits, scores = vectors("logits", logits), []
    if split_size < 1:
        raise InputError(f"split_size: {split_size} must be at least 1")
    for begin in range(0, len(logits), split_size):
        log_p = log_softmax(np.asarray(logits[begin : begin + split_size], np.float64), axis=1)
        p = np.exp(log_p)
        # A class so unlikely that p is 0 adds nothing; its logarithms would be infinite.
        log_marginal = np.log(np.where(p > 0, p.mean(axis=0), 1.0))
        scores.append(np.exp(np.where(p > 0, p * (log_p - log_marginal), 0.0).sum(axis=1).mean()))
    return Score(float(np.mean(scores)), float(np.std(scores)))


def vendi_score(features: Shaped[np.ndarray, "n d"]) -> float:
    """The effective number of different images, from 1 to n (Friedman and Dieng, arXiv 2210.02410, definition 3.1).

    exp of the entropy of the eigenvalues of K / n, where K [n n] is the cosine similarity of the features.

    Raises:
      InputError: the features are not finite numbers [n d], or one is 0 and has no cosine.
    """
    x = directions("features", features)
    # X X^T and X^T X have the same eigenvalues but for zeros.
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    values = np.linalg.eigvalsh(gram / len(x))
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))
