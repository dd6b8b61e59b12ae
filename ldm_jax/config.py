"""The typed schema of an experiment: composition and cross-checks; the sections live beside the code they configure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from ldm_jax.conditions import ConditionConfig, Label
from ldm_jax.diffusion.process import Process
from ldm_jax.errors import InputError
from ldm_jax.migration import renewed_config
from ldm_jax.models import (
    AutoencoderConfig,
    DiTConfig,
    FSQConfig,
    MMDiTConfig,
    TinyAutoencoderConfig,
    UNetConfig,
    VQConfig,
)
from ldm_jax.pipeline.recipe import OwnSampler, Sampling
from ldm_jax.serialization import from_tree, parse_json, to_tree
from ldm_jax.stages import AutoencoderTraining, DenoiserTraining, StageConfig
from ldm_jax.stages.objectives import check_objective
from ldm_jax.training.stage import at_least

FirstStage: TypeAlias = AutoencoderConfig | VQConfig | FSQConfig | TinyAutoencoderConfig
Denoiser: TypeAlias = DiTConfig | UNetConfig | MMDiTConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they enter."""

    source: str = "bundled:fashion_mnist"
    """bundled:NAME, tfds:NAME, folder:PATH or npz:PATH."""
    image_size: int = 32
    """Side in pixels; images are centre-cropped and resized to it. Signals that are no pictures keep their shape."""
    batch_size: int = 64
    """Examples per step, over all devices."""
    flip: bool = False
    """Mirror half of the images left to right."""
    limit: int = 0
    """Use only about the first so many images, taken evenly over the set; 0 for all."""
    latents: Literal["float32", "float16"] = "float32"
    """Type of the cached latents on disk."""

    def __post_init__(self) -> None:
        at_least("data", self, image_size=1, batch_size=1, limit=0)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A part that was trained before: its architecture comes with it."""

    path: str = ""
    """A model's folder, a run's, a pipeline of diffusers, or the folder of the part alone."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = DataConfig()
    autoencoder: FirstStage | Pretrained = AutoencoderConfig()
    """The network between images and latents."""
    conditions: tuple[ConditionConfig, ...] = (Label(),)
    """What the denoiser is told; a pretrained pipeline brings its own."""
    denoiser: Denoiser | Pretrained = DiTConfig()
    """The network that reverses the process in latent space."""
    process: Process = Process()
    """Noise, prediction, and how errors are weighed; of a pretrained denoiser schedule and prediction come with it."""
    stages: tuple[StageConfig, ...] = (AutoencoderTraining(), DenoiserTraining())
    """What is trained, in this order; an autoencoder without its stage is used as it is."""
    sampling: Sampling = Sampling()
    """How pictures are drawn while training, and where nobody says otherwise."""
    parallel: Literal["pmap", "fsdp"] = "pmap"
    """pmap: replicated data parallelism. fsdp: jit with parameters and optimiser state sharded over the devices."""
    seed: int = 0
    """Everything random is a function of it."""

    FORMAT: ClassVar[int] = 2

    def __post_init__(self) -> None:
        names = [stage.label for stage in self.stages]
        if not names or len(set(names)) < len(names) or names != sorted(names):
            raise InputError(
                f"stages: {', '.join(names) or 'none'} must be autoencoder, denoiser, or both in this order"
            )
        for part in ("autoencoder", "denoiser"):
            if isinstance(getattr(self, part), Pretrained) and not getattr(self, part).path:
                raise InputError(f"{part}.path: it must name a folder")
        told = [condition.label for condition in self.conditions]
        if len(set(told)) < len(told):
            raise InputError(f"conditions: {', '.join(told)} must name each kind once")
        for stage in self.stages:
            if self.data.batch_size % stage.accumulate:
                raise InputError(
                    f"data.batch_size: {self.data.batch_size} must be a multiple of accumulate ({stage.accumulate})"
                )
        if isinstance(self.autoencoder, FirstStage) and not isinstance(self.denoiser, Pretrained):
            self._check_size(self.autoencoder)
            self._check_untrained()
        self._check_tuned()
        self._check_guidance()
        training = self.stage(DenoiserTraining)
        if training is not None and not isinstance(self.denoiser, Pretrained):
            dropout = any(condition.dropout for condition in self.conditions)
            check_objective(training.objective, self.process, self.denoiser, dropout)

    def stage(self, kind: type) -> Any:
        """The settings of the stage of this kind, or None where it is not trained."""
        return next((stage for stage in self.stages if isinstance(stage, kind)), None)

    def with_stages(self, **changes: Mapping[str, Any]) -> Config:
        """The same experiment with fields of its stages changed: with_stages(denoiser={"steps": 10})."""
        stages = (dataclasses.replace(stage, **changes.get(stage.label, {})) for stage in self.stages)
        return dataclasses.replace(self, stages=tuple(stages))

    def _check_size(self, autoencoder: Any) -> None:
        size, factor = self.data.image_size, autoencoder.factor
        if size % factor:
            raise InputError(f"data.image_size: {size} must be a multiple of the down-sampling factor {factor}")
        patch = getattr(self.denoiser, "patch", 1)
        if size // factor % patch:
            raise InputError(
                f"denoiser.patch: {patch} must divide the latents' side "
                f"{size // factor} (image_size {size} / factor {factor})"
            )
        training = self.stage(AutoencoderTraining)
        if training is not None:
            check_loss(training, autoencoder, size)

    def _check_untrained(self) -> None:
        if self.stage(AutoencoderTraining) is None:
            raise InputError(
                "stages: without an autoencoder stage a pretrained autoencoder is needed (--autoencoder-from)"
            )
        denoiser = self.stage(DenoiserTraining)
        if denoiser is not None and denoiser.adapter is not None and not isinstance(self.denoiser, Pretrained):
            raise InputError("stages.denoiser.adapter: it needs a pretrained denoiser (--denoiser-from PATH)")

    def _check_tuned(self) -> None:
        denoiser = self.stage(DenoiserTraining)
        if denoiser is None:
            return
        for part in ("prior", "embedding"):
            if getattr(denoiser, part) is not None and not isinstance(self.denoiser, Pretrained):
                raise InputError(f"stages.denoiser.{part}: it needs a pretrained denoiser (--denoiser-from PATH)")
        if denoiser.prior is not None and not denoiser.prior.source:
            raise InputError("stages.denoiser.prior.source: it must be a data source, such as npz:PATH")

    def _check_guidance(self) -> None:
        if isinstance(self.denoiser, Pretrained) or self.sampling.guidance == 1.0:
            return
        if isinstance(self.sampling.sampler, OwnSampler):
            raise InputError("sampling.sampler: a published scheduler's own sampler needs a pretrained denoiser")
        if not any(condition.dropout > 0.0 for condition in self.conditions):
            names = ", ".join(condition.label for condition in self.conditions) or "none"
            raise InputError(
                f"sampling.guidance: {self.sampling.guidance} needs a condition that is dropped in training "
                f"(dropout above 0); conditions: {names}"
            )

    def to_json(self) -> str:
        """Indented JSON that `from_json` reads back to an equal config; "type" tells which kind a section is."""
        return json.dumps({"format": self.FORMAT, **to_tree(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The config in `text`, of this version or 0.1; InputError names an unknown field or a wrong value."""
        tree = parse_json(text)
        return from_tree(cls, renewed_config(tree) if isinstance(tree, dict) else tree)


def check_loss(training: AutoencoderTraining, autoencoder: Any, size: int) -> None:
    """InputError where the loss can't be taken of this network's images of side `size`."""
    loss, where = training.loss, "stages.autoencoder.loss"
    if loss.reconstruction == "bce" and not getattr(autoencoder, "sigmoid_output", False):
        raise InputError(f"{where}.reconstruction: 'bce' needs autoencoder.sigmoid_output true")
    if loss.perceptual_weight and size < 16:
        raise InputError(f"data.image_size: {size} must be at least 16 for LPIPS (perceptual_weight)")
    if loss.adversarial_weight and size < training.discriminator.least_side:
        raise InputError(
            f"stages.autoencoder.discriminator.layers: {training.discriminator.layers} need images of "
            f"{training.discriminator.least_side} px, data.image_size is {size}"
        )
    if not loss.equivariance_weight:
        return
    if isinstance(autoencoder, VQConfig | FSQConfig):
        raise InputError(f"{where}.equivariance_weight: must be 0 for quantised latents")
    if size // autoencoder.factor % 2 or size < 32 * bool(loss.perceptual_weight):
        raise InputError(
            f"{where}.equivariance_weight: needs latents of even side, and 32 px with LPIPS; data.image_size is {size}"
        )


def read_config(path: Path) -> Config:
    """The config in a JSON file, such as runs/NAME/config.json."""
    return Config.from_json(path.read_text())
