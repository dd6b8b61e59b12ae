"""The denoiser's section of an experiment."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar, Literal

from ldm_jax.errors import InputError
from ldm_jax.stages.prior import Prior
from ldm_jax.training.stage import Training


@dataclasses.dataclass(frozen=True)
class Adapter:
    """LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank changes of some layers, the network itself stays."""

    rank: int = 16
    """Rank of each change."""
    alpha: float = 0.0
    """Changes are scaled by alpha / rank; 0: alpha = rank, a scale of 1."""
    layers: str = ""
    """Regular expression of the kernels' paths, such as ".*(query|value)/kernel"; empty: all of attention."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 0.0:
            raise InputError(f"stages.denoiser.adapter: rank ({self.rank}) must be at least 1, alpha 0 or more")
        try:
            re.compile(self.layers)
        except re.error as error:
            raise InputError(f"stages.denoiser.adapter.layers: {self.layers!r} is no pattern ({error})") from error


@dataclasses.dataclass(frozen=True)
class DenoiserTraining(Training):
    """The second stage: the reverse process in latent space."""

    label: ClassVar[str] = "denoiser"

    trains: Literal["all", "attention"] = "all"
    """attention: every other layer stays as it is."""
    adapter: Adapter | None = None
    """Train low-rank changes in place of the network's own parameters; needs a pretrained denoiser."""
    dropout: float = 0.1
    """Share of examples trained without each condition that came with a pretrained denoiser, for guidance."""

    prior: Prior | None = None
    """A second source that a part of each batch comes from, so that what the denoiser knew stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.dropout <= 1.0:
            raise InputError(f"stages.denoiser.dropout: {self.dropout} must be between 0 and 1")
        if self.adapter is not None and self.trains != "all":
            raise InputError("stages.denoiser.trains: it must be 'all' where an adapter is trained in its place")
