"""The denoiser's section of an experiment."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar, Literal

from ldm_jax.errors import InputError
from ldm_jax.stages.objectives import Denoising, Objective
from ldm_jax.stages.prior import Prior
from ldm_jax.training.averages import Profiles
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
class Embedding:
    """Textual inversion (Gal et al. 2023, arXiv 2208.01618): a new word's vectors are all that is trained."""

    token: str = "<new>"
    """How the word is written in prompts."""
    init: str = ""
    """Words that its vectors begin as, token by token in turn; empty: all begin as the mean of the vocabulary."""
    vectors: int = 1
    """How many vectors the word has."""
    templates: tuple[str, ...] = (
        "a photo of {}",
        "a rendering of {}",
        "a cropped photo of {}",
        "the photo of {}",
        "a close-up photo of {}",
        "a bright photo of {}",
        "a good photo of {}",
        "a depiction of {}",
    )
    """What images without a caption that has the word are called, with {} for it; each epoch takes another."""

    def __post_init__(self) -> None:
        where = "stages.denoiser.embedding"
        if not self.token or self.token != "".join(self.token.split()):
            raise InputError(f"{where}.token: {self.token!r} must be one word without spaces, such as '<cat>'")
        if self.vectors < 1:
            raise InputError(f"{where}.vectors: {self.vectors} must be at least 1")
        wrong = [template for template in self.templates if "{}" not in template]
        if wrong or not self.templates:
            raise InputError(f"{where}.templates: {wrong[0] if wrong else 'none'!r} must have {{}} for the word")


@dataclasses.dataclass(frozen=True)
class DenoiserTraining(Training):
    """The second stage: the reverse process in latent space."""

    label: ClassVar[str] = "denoiser"

    objective: Objective = Denoising()
    """What is learnt of each example."""
    posterior: Literal["sample", "mean"] = "sample"
    """What a step sees of an image's latents: a fresh sample of the encoder's posterior, as in LDM, or its mean."""
    trains: Literal["all", "attention"] = "all"
    """attention: every other layer stays as it is."""
    adapter: Adapter | None = None
    """Train low-rank changes in place of the network's own parameters; needs a pretrained denoiser."""
    embedding: Embedding | None = None
    """Train a new word of a pipeline's text encoders in place of the denoiser; needs a pretrained pipeline."""
    dropout: float = 0.1
    """Share of examples trained without each condition that came with a pretrained denoiser, for guidance."""
    averages: Profiles | None = None
    """Snapshots of more averages, from which one of any length is rebuilt after training (`ldm-jax average`)."""

    prior: Prior | None = None
    """A second source that a part of each batch comes from, so that what the denoiser knew stays."""

    @property
    def profiles(self) -> Profiles | None:
        return self.averages

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.dropout <= 1.0:
            raise InputError(f"stages.denoiser.dropout: {self.dropout} must be between 0 and 1")
        if self.adapter is not None and self.trains != "all":
            raise InputError("stages.denoiser.trains: it must be 'all' where an adapter is trained in its place")
        others = {"adapter": self.adapter, "prior": self.prior, "trains": None if self.trains == "all" else self.trains}
        beside = [name for name, value in others.items() if value is not None]
        if self.embedding is not None and beside:
            raise InputError(f"stages.denoiser.{beside[0]}: it must be left out where a word is all that is trained")
