"""Numbers that can be compared: arrays and callables in, metrics and reports out.

Here belongs what a number is, as a function of arrays. Opening models, data and references, and drawing samples, is
evaluation/'s business.
"""

from ldm_jax.metrics.extraction import Features, Wanted, collect, pixels, sharded
from ldm_jax.metrics.inception_score import SPLIT, inception_score, vendi_score
from ldm_jax.metrics.kernel import KernelDistance, cmmd, kernel_distance
from ldm_jax.metrics.manifold import density_coverage, nearest, precision_recall
from ldm_jax.metrics.memorization import Memorization, memorization
from ldm_jax.metrics.reconstruction import ms_ssim, psnr, ssim
from ldm_jax.metrics.report import Protocol, Report
from ldm_jax.metrics.rounding import Rounding, to_uint8
from ldm_jax.metrics.statistics import (
    Gaussian,
    Moments,
    frechet_distance,
    merge,
    moments,
    open_npz,
    read_statistics,
    write_statistics,
)

__all__ = [
    "SPLIT",
    "Features",
    "Gaussian",
    "KernelDistance",
    "Memorization",
    "Moments",
    "Protocol",
    "Report",
    "Rounding",
    "Wanted",
    "cmmd",
    "collect",
    "density_coverage",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "memorization",
    "merge",
    "moments",
    "ms_ssim",
    "nearest",
    "open_npz",
    "pixels",
    "precision_recall",
    "psnr",
    "read_statistics",
    "sharded",
    "ssim",
    "to_uint8",
    "vendi_score",
    "write_statistics",
]
