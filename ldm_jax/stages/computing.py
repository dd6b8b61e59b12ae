"""A stage's networks as its settings want them computed."""

from __future__ import annotations

from typing import Any, TypeVar

from ldm_jax.models import with_compute
from ldm_jax.training.stage import Training

Module = TypeVar("Module")


def computed(module: Module, training: Training, *, scan: bool = False) -> Module:
    """The network with the stage's dtype and remat; scan: and its scan, for transformers.

    Networks that recompute nothing (a discriminator, LPIPS) leave remat as it is.
    """
    config: Any = module.config  # type: ignore[attr-defined]
    remat = training.remat if hasattr(config, "remat") else None
    own = with_compute(config, training.dtype, remat, training.scan if scan else None)
    return type(module)(own)  # type: ignore[call-arg]
