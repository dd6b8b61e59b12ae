"""Images and features that tests and tests/reference/metrics.py make alike; NumPy's legacy generator never changes."""

import numpy as np


def image_pairs(shape, seed=0):
    """Smooth images uint8 [b h w c] and noisy copies, the noise growing along the batch."""
    rng = np.random.RandomState(seed)
    b, h, w, c = shape
    y, x = np.mgrid[:h, :w] / max(h, w)
    phase = rng.uniform(0, 6.28, (b, 1, 1, c))
    waves = np.sin(9 * x[..., None] + phase) * np.cos(14 * y[..., None] - 2 * phase) + np.sin(40 * (x * y)[..., None])
    images = 128 + 55 * waves + rng.normal(0, 6, shape)
    noise = rng.normal(0, 1, shape) * (4 + 12 * np.arange(b).reshape(-1, 1, 1, 1))
    return tuple(np.clip(np.round(a), 0, 255).astype(np.uint8) for a in (images, images + noise))


def feature_sets(n=90, m=110, d=12, seed=1):
    """Two overlapping clouds of features, float32 [n d] and [m d], of unequal covariance."""
    rng = np.random.RandomState(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    samples = rng.normal(size=(n, d)) @ mix * 1.2 + 0.3
    reference = rng.normal(size=(m, d)) @ (mix + 0.2 * np.eye(d))
    return samples.astype(np.float32), reference.astype(np.float32)


def logits(n=103, k=20, seed=2):
    return (3 * np.random.RandomState(seed).normal(size=(n, k))).astype(np.float32)
