"""Whole models from one file: Stable Diffusion 1, 2, XL and 3 as they were first published.

Such a file holds networks alone. What it lacks is known for each family (scheduler, scale of the latents, size, CLIP's
tokenizers), but for T5's tokenizer, which comes from a folder.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldm_jax.errors import InputError
from ldm_jax.pipeline.layouts import SCORED
from ldm_jax.pretrained.clip_vocabulary import END, clip_files
from ldm_jax.pretrained.parts import Opened, read_params
from ldm_jax.pretrained.single_file import open_single
from ldm_jax.pretrained.tensors import read_json
from ldm_jax.pretrained.tokenization import tokenizer_files

log = logging.getLogger("ldm_jax")

BETAS = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}


OF_A_PIPELINE = ("model_index.json", "scheduler", "tokenizer", "vocab.json", "tokenizer.json")
"""What `like` may have."""


class Family(NamedTuple):
    """What the files of a family don't say."""

    name: str
    pipelines: dict[int, str]
    """diffusers' pipelines, without a mask (0) and with one (1) joined to z."""
    scheduler: dict[str, Any]
    vae: dict[str, float]
    size: int
    """Side of the latents."""
    pads: dict[str, str]
    """What fills texts up, for each tokenizer of CLIP's words."""
    scored: bool = False
    """Whether it is SDXL's refiner, which is told how pleasing the image is."""


SD1 = Family(
    "SD 1",
    {0: "StableDiffusionPipeline", 1: "StableDiffusionInpaintPipeline"},
    {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, **BETAS},
    {"scaling_factor": 0.18215},
    64,
    {"tokenizer": END},
)
SD2 = SD1._replace(
    name="SD 2",
    scheduler={
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": False,
        **BETAS,
    },
    size=96,
    pads={"tokenizer": "!"},
)
SDXL = Family(
    "SDXL",
    {0: "StableDiffusionXLPipeline", 1: "StableDiffusionXLInpaintPipeline"},
    {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **BETAS},
    {"scaling_factor": 0.13025},
    128,
    {"tokenizer": END, "tokenizer_2": "!"},
)
REFINER = SDXL._replace(
    name="SDXL's refiner",
    pipelines={0: "StableDiffusionXLImg2ImgPipeline"},
    scored=True,
)
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
SD3 = Family(
    "SD 3",
    {0: "StableDiffusion3Pipeline", 1: "StableDiffusion3InpaintPipeline"},
    FLOW,
    {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    128,
    {"tokenizer": END, "tokenizer_2": "!"},
)


def family_of(parts: dict[str, Opened], path: Path) -> Family:
    """The family of a file, from its parts; InputError where it isn't a whole model."""
    if "transformer" in parts and "unet" not in parts:
        family, needed = SD3, ("transformer", "vae")
    elif "unet" in parts and "text_encoder_2" in parts and "text_encoder" not in parts and _alone(parts):
        family, needed = REFINER, ("unet", "vae", "text_encoder_2")
    elif "text_encoder_2" in parts:
        family, needed = SDXL, ("unet", "vae", "text_encoder", "text_encoder_2")
    else:
        two = "text_encoder" in parts and parts["text_encoder"].module.config.activation == "gelu"  # type: ignore[attr-defined]
        family, needed = SD2 if two else SD1, ("unet", "vae", "text_encoder")
    missing = [part for part in needed if part not in parts]
    if missing:
        raise InputError(
            f"model: {path} holds {', '.join(parts)} alone and lacks {', '.join(missing)}; accepted: a whole model of "
            "Stable Diffusion 1, 2, XL or 3, or name its parts' folders (docs/weights.md)"
        )
    return family


def _alone(parts: dict[str, Opened]) -> bool:
    """Whether the UNet is told what the second encoder says and nothing besides."""
    unet, encoder = (parts[part].module.config for part in ("unet", "text_encoder_2"))  # type: ignore[attr-defined]
    return unet.context_dim == encoder.width


@dataclasses.dataclass(frozen=True)
class SingleReader:
    """Reads the parts of one file as `Reader` those of a folder; tokenizers, and what else is there, from `like`."""

    path: Path
    like: Path | None
    parts: dict[str, Opened]
    family: Family
    dtype: str
    sharding: Any
    without: tuple[str, ...]

    @property
    def index(self) -> dict[str, Any]:
        """What model_index.json says of the pipeline in `like`."""
        file = self._beside("model_index.json")
        known = {SCORED: True, "force_zeros_for_empty_prompt": False} if self.family.scored else {}
        return known if file is None else read_json(file)

    def _beside(self, name: str) -> Path | None:
        """A file in `like`, where it is there."""
        return self.like / name if self.like is not None and (self.like / name).is_file() else None

    @property
    def name(self) -> str:
        """diffusers' name of the pipeline."""
        part = "transformer" if "transformer" in self.parts else "unet"
        config: Any = self.parts[part].module.config  # type: ignore[attr-defined]
        latents = self.parts["vae"].module.config.latent_channels  # type: ignore[attr-defined]
        extra = config.in_channels - latents
        if int(extra > 0) not in self.family.pipelines or extra not in (0, latents + 1):
            raise InputError(f"model: {self.path} is of {self.family.name} with {extra} more channels, not known")
        return self.family.pipelines[int(extra > 0)]

    def part(self, name: str, *kinds: type) -> tuple[Any, Any, dict[str, Any]]:
        """A part's module, parameters on the devices, and what its config.json would say."""
        opened = self.parts[name]
        module: Any = opened.module
        if not isinstance(module, kinds):
            raise InputError(f"model: {self.path} holds a {type(module).__name__} as its {name}")
        target = self.sharding or (lambda path, shape: None)
        params = jax.tree.map(jnp.asarray, read_params(opened, self.dtype, target))
        if self.dtype != "float32":
            module = type(module)(dataclasses.replace(module.config, dtype=self.dtype))
        known = self._beside(f"{name}/config.json")
        settings = {**self.family.vae, "sample_size": self.family.size}
        return module, params, settings | ({} if known is None else read_json(known))

    def has(self, name: str) -> bool:
        """Whether a part is there and wanted."""
        if name in self.without or name not in self.parts:
            return False
        if name == "text_encoder_3" and (self.like is None or not (self.like / "tokenizer_3").is_dir()):
            log.warning("like: %s has no tokenizer_3: %s is left out, its tokens are zeros", self.like, name)
            return False
        return True

    def scheduler(self, name: str = "scheduler") -> dict[str, Any]:
        """The scheduler's config: that in `like`, or the family's."""
        file = self._beside(f"{name}/scheduler_config.json")
        if file is not None:
            return read_json(file)
        if self.family is SD2:
            log.warning("%s: taken to predict v, as SD 2 for 768 pixels; a scheduler/ in like= tells", self.path)
        return self.family.scheduler

    def tokenizer(self, name: str) -> dict[str, bytes]:
        """The files of a tokenizer: those in `like`, or CLIP's own."""
        for folder in () if self.like is None else (self.like / name, self.like):
            files = tokenizer_files(folder)
            if "vocab.json" in files or "tokenizer.json" in files:
                return files
        if name in self.family.pads:
            return clip_files(self.family.pads[name])
        raise InputError(
            f"like: {self.like} has no {name}/; name a folder of {self.family.name}'s pipeline "
            "that has (its weights aren't needed)"
        )


def open_file_reader(
    path: Path, like: str | Path | None, dtype: str, sharding: Any, without: tuple[str, ...], ema: bool
) -> SingleReader:
    """A reader of one file's parts."""
    parts = open_single(path, ema=ema)
    family = family_of(parts, path)
    if like is not None and not Path(like).is_dir():
        raise InputError(f"like: {like} is not a folder")
    if like is not None and not any((Path(like) / name).exists() for name in OF_A_PIPELINE):
        raise InputError(f"like: {like} has nothing of a pipeline; accepted: a folder with {', '.join(OF_A_PIPELINE)}")
    return SingleReader(path, None if like is None else Path(like), parts, family, dtype, sharding, without)
