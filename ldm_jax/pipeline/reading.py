"""Whole models from folders: our own, and the pipelines of diffusers."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from ldm_jax.conditions import (
    Condition,
    Encoder,
    GivenImage,
    LabelCondition,
    MaskedLatents,
    NoisedImage,
    Saved,
    SavedCondition,
    TextCondition,
    TextConditioner,
)
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.schedules import DiscreteBetas
from ldm_jax.errors import InputError
from ldm_jax.models import (
    AUTOENCODERS,
    Autoencoder,
    DiT,
    MMDiT,
    T5Encoder,
    TextEncoder,
    TinyAutoencoder,
    UNet,
    VQAutoencoder,
)
from ldm_jax.pipeline.layouts import (
    DENOISER_FOLDERS,
    LOW_RES,
    PIPELINES,
    SCORED,
    SCORES,
    Layout,
    layout_of,
    model_folder,
)
from ldm_jax.pipeline.migration import renewed_index
from ldm_jax.pipeline.model import LatentDiffusion
from ldm_jax.pipeline.recipe import OwnSampler, Sampling, Scheduler
from ldm_jax.pipeline.single import SingleReader, open_file_reader
from ldm_jax.pretrained import hub
from ldm_jax.pretrained.parts import load_part, read_json
from ldm_jax.pretrained.schedulers import from_diffusers_scheduler
from ldm_jax.pretrained.tokenization import read_tokenizer, tokenizer_files
from ldm_jax.serialization import convert, from_tree

log = logging.getLogger("ldm_jax")


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    variant: str | None = None,
    sharding: Any = None,
    without: Sequence[str] = (),
    like: str | Path | None = None,
    ema: bool = True,
) -> LatentDiffusion:
    """The model in a folder: one that `LatentDiffusion.save` wrote, a run's folder, or a pipeline of diffusers.

    "hf:ORG/NAME" is a pipeline of the Hugging Face Hub, see `ldm_jax.pretrained.hub`.

    Pipelines: Stable Diffusion 1 and 2, SDXL and SD3, those for inpainting, image to image and upscaling too; DiT; LDM
    (unconditional, super-resolution, text-to-image).
    dtype: of parameters and arithmetic, float32 or bfloat16. variant: "fp16" for files of that name. sharding: see
    `load_part`; the default device where None, every device of this process with `everywhere()`, which then share each
    batch. without: parts to leave out, such as SD3's large text_encoder_3 (its tokens are then zeros, as SD3 was
    trained to bear). path may also be one file of Stable Diffusion 1, 2, XL or 3 under its first names, with CLIP's own
    tokenizers; `like` is then a pipeline's folder with others and a scheduler (weights aren't needed), and ema chooses
    averages where there are both, see `ldm_jax.pretrained.single_file.open_single`. InputError in one line for anything
    else or damaged.
    """
    path = hub.local(path, variant)
    if path.is_file():
        return _load_file(path, dtype, variant, sharding, tuple(without), like, ema)
    if not path.exists():
        raise InputError(
            f"model: {path} does not exist; name a finished run's folder, its model/, a pipeline or a file"
        )
    if like is not None or not ema:
        raise InputError(f"{'like' if like is not None else 'ema'}: it is for single files; {path} is a folder")
    folder = model_folder(path)
    if folder is None:
        what = "is a part of a model" if _is_part(path) else "has no model_index.json"
        raise InputError(f"model: {path} {what}; name a finished run's folder or its model/")
    path = folder
    if variant is not None and not any(path.glob(f"*/*.{variant}.*")):
        raise InputError(f"variant: {variant!r} can't be used, no part of {path} has such files; leave it out")
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype: {dtype!r} must be float32 or bfloat16")
    index = read_json(path / "model_index.json")
    name = index.get("_class_name")
    read = Reader(path, index, dtype, variant, sharding, tuple(without))
    if name == "LatentDiffusion":
        return _load_ours(read)
    return _load_published(read, layout_of(name, path))


def _is_part(path: Path) -> bool:
    """Whether a folder's config.json is a network's and not a run's."""
    return (path / "config.json").is_file() and "_class_name" in read_json(path / "config.json")


def _load_file(
    path: Path, dtype: str, variant: str | None, sharding: Any, without: tuple[str, ...], like: Any, ema: bool
) -> LatentDiffusion:
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype: {dtype!r} must be float32 or bfloat16")
    if variant is not None:
        raise InputError(f"variant: {variant!r} can't be used, {path} is a single file; leave it out")
    read = open_file_reader(path, like, dtype, sharding, without, ema)
    return _load_published(read, read.name)


class Reader(NamedTuple):
    """Where parts are read from, and how."""

    path: Path
    index: dict[str, Any]
    dtype: str
    variant: str | None
    sharding: Any
    without: tuple[str, ...]

    def part(self, name: str, *kinds: type) -> tuple[Any, Any, dict[str, Any]]:
        """A part's module, parameters on the devices, and the record of its config.json."""
        folder = self.path / name
        # A variant of one part needn't be there for all of them.
        variant = self.variant if self.variant and any(folder.glob(f"*.{self.variant}.*")) else None
        target = self.sharding or (lambda path, shape: None)
        module, params = load_part(folder, dtype=self.dtype, sharding=target, variant=variant)
        if not isinstance(module, kinds):
            wanted = " or a ".join(kind.__name__ for kind in kinds)
            raise InputError(f"model: {self.path} needs a {wanted} in {name}/")
        if self.dtype != "float32":
            module = type(module)(dataclasses.replace(module.config, dtype=self.dtype))  # type: ignore[call-arg, attr-defined]
        return module, params, read_json(folder / "config.json")

    def has(self, name: str) -> bool:
        """Whether a part is there and wanted; null in the index stands for none."""
        entry = self.index.get(name)
        named = isinstance(entry, list) and entry[:1] != [None]
        if named and name not in self.without and not (self.path / name).is_dir():
            log.warning("%s names %s, which is not there", self.path, name)
        return named and name not in self.without and (self.path / name).is_dir()

    def scheduler(self, name: str = "scheduler") -> dict[str, Any]:
        """A scheduler's config."""
        return read_json(self.path / name / "scheduler_config.json")

    def tokenizer(self, name: str) -> dict[str, bytes]:
        """The files of a tokenizer."""
        return tokenizer_files(self.path / name)


def _load_ours(read: Reader) -> LatentDiffusion:
    index = renewed_index(read.index)
    autoencoder, autoencoder_params, statistics = read.part("vae", *AUTOENCODERS.values())
    denoiser, denoiser_params = None, None
    for kind, folder in DENOISER_FOLDERS.items():
        if folder in index and index[folder][-1] == kind.__name__:
            denoiser, denoiser_params, _ = read.part(folder, kind)
    try:
        conditions, condition_params = _saved_conditions(read, index["conditions"])
        return LatentDiffusion(
            autoencoder=autoencoder,
            autoencoder_params=autoencoder_params,
            latent_mean=np.asarray(statistics["latents_mean"], np.float32),
            latent_std=np.asarray(statistics["latents_std"], np.float32),
            shape=(*convert(tuple[int, ...], index["shape"], "shape")[:-1], autoencoder.config.image_channels),
            denoiser=denoiser,
            denoiser_params=denoiser_params,
            process=from_tree(Process, index["process"], "process."),
            sampling=from_tree(Sampling, index["sampling"], "sampling."),
            conditions=conditions,
            condition_params=condition_params,
        )
    except KeyError as error:
        raise InputError(f"model: {read.path} lacks {error.args[0]}") from error


def _saved_conditions(read: Reader, entries: Any) -> tuple[tuple[Condition, ...], dict[str, Any]]:
    """What the denoiser is told, and the parameters that were trained for it, by the conditions' names."""
    conditions: list[Condition] = []
    params: dict[str, Any] = {}
    for i, entry in enumerate(entries):
        found = convert(SavedCondition, entry, f"conditions.{i}")
        if isinstance(found, Saved):
            found, own = found.open(read.path, lambda name: read.part(name, nn.Module)[:2])
            params |= {found.name: own} if own else {}
        conditions.append(found)
    return tuple(conditions), params


def _load_published(read: Reader | SingleReader, name: str) -> LatentDiffusion:
    layout = PIPELINES[name]
    stages = (Autoencoder, VQAutoencoder, TinyAutoencoder)
    autoencoder, autoencoder_params, vae = read.part(layout.autoencoder, *stages)
    denoiser, denoiser_params, record = read.part(layout.denoiser, UNet, DiT, MMDiT)
    config = autoencoder.config
    channels = getattr(config, "code_channels", config.latent_channels)
    mean, std = _statistics(vae, channels, layout, f"{layout.autoencoder}/config.json")
    size = record.get("sample_size")
    size = size[0] if isinstance(size, list) and len(set(map(str, size))) == 1 else size
    if type(size) is not int or size < 1:
        raise InputError(f"{layout.denoiser}.sample_size: {size!r} must be a side of latents")
    extra = denoiser.config.in_channels - channels
    more = {"image": (config.image_channels,), "noised": (config.image_channels,), "mask": (0, 1 + channels)}
    if extra not in more.get(layout.joined or "", (0,)):
        accepted = " or ".join(str(channels + one) for one in more.get(layout.joined or "", (0,)))
        raise InputError(
            f"{layout.denoiser}.in_channels: {denoiser.config.in_channels} must be {accepted}, as this pipeline has "
            f"{channels} channels of latents"
        )
    scheduler = Scheduler(json.dumps(read.scheduler()))
    return LatentDiffusion(
        autoencoder=autoencoder,
        autoencoder_params=autoencoder_params,
        latent_mean=mean,
        latent_std=std,
        shape=(*(size * config.factor,) * 2, config.image_channels),
        denoiser=denoiser,
        denoiser_params=denoiser_params,
        process=scheduler.process,
        sampling=Sampling(OwnSampler(), layout.steps, guidance=layout.guidance),
        conditions=_conditions(read, layout, denoiser, extra),
        scheduler=scheduler,
        published=name,
    )


def _conditions(read: Reader | SingleReader, layout: Layout, denoiser: Any, extra: int) -> tuple[Condition, ...]:
    """What a published pipeline's denoiser is told; extra: channels joined to z."""
    found: list[Condition] = []
    if layout.encoders:
        encoders = _text(read, layout, getattr(denoiser.config, "context_dim", 0))
        refiner = layout.style == "sdxl" and bool(read.index.get(SCORED))
        found.append(TextCondition(encoders, layout.style == "sdxl", SCORES if refiner else None))
    classes = getattr(denoiser.config, "num_classes", 0)
    if classes:
        names = read.index.get("id2label")
        names = {int(k): str(v) for k, v in names.items() if k.isdigit()} if isinstance(names, dict) else {}
        found.append(LabelCondition(tuple(names.get(i, str(i)) for i in range(classes))))
    if layout.joined == "noised":
        found.append(_noised(read, extra))
    elif extra:
        found.append(MaskedLatents(extra) if layout.joined == "mask" else GivenImage(extra))
    return tuple(found)


def _noised(read: Reader | SingleReader, channels: int) -> NoisedImage:
    """The upscaler's small image, with noise by its own scheduler."""
    record = read.scheduler(LOW_RES)
    schedule = from_diffusers_scheduler(record, 1).schedule
    if not isinstance(schedule, DiscreteBetas):
        raise InputError(f"{LOW_RES}: {record.get('_class_name')!r} must be a scheduler with a table of betas")
    alphas = np.exp(schedule.log_alphas()[1:])
    most = read.index.get("max_noise_level", 350)
    if type(most) is not int or not 0 <= most < len(alphas):
        raise InputError(f"max_noise_level: {most!r} must be a level of {LOW_RES}, 0 to {len(alphas) - 1}")
    return NoisedImage(channels, alphas=alphas, most=most, record=record)


def _statistics(vae: dict[str, Any], channels: int, layout: Layout, where: str) -> tuple[np.ndarray, np.ndarray]:
    """What z is normalised by: raw = z std + mean."""
    if not layout.scaled:
        return np.zeros(channels), np.ones(channels)
    default = 1.0 if vae.get("_class_name") == "AutoencoderTiny" else 0.18215
    scale, shift = vae.get("scaling_factor", default), vae.get("shift_factor") or 0.0
    for key, value in (("scaling_factor", scale), ("shift_factor", shift)):
        if type(value) not in (int, float) or not np.isfinite(value) or (key == "scaling_factor" and value <= 0):
            raise InputError(f"{where}: {key} {value!r} must be a {'positive ' if key[1] == 'c' else ''}number")
    mean, std = vae.get("latents_mean"), vae.get("latents_std")
    # diffusers' SDXL alone reads them.
    if layout.style == "sdxl" and mean is not None and std is not None:
        for entries in (mean, std):
            if not isinstance(entries, list) or [type(x) in (int, float) for x in entries] != [True] * channels:
                raise InputError(f"{where}: latents_mean and latents_std must have {channels} numbers")
        return np.asarray(mean, np.float64), np.asarray(std, np.float64) / scale
    return np.full(channels, float(shift)), np.full(channels, 1.0 / scale)


def _text(read: Reader | SingleReader, layout: Layout, context_dim: int) -> TextConditioner:
    encoders = {}
    for part, tokenizer in layout.encoders:
        # SDXL's refiner has the second alone.
        may_lack = part == "text_encoder_3" or (part == "text_encoder" and read.index.get(SCORED))
        if may_lack and not read.has(part):
            continue
        module, params, _ = read.part(part, T5Encoder if part == "text_encoder_3" else TextEncoder)
        files = read.tokenizer(tokenizer)
        encoders[part] = Encoder(module, params, read_tokenizer(files, str(read.path / tokenizer)), files)
        tokens, rows = encoders[part].tokenizer.size, module.config.vocabulary
        if tokens > rows:
            raise InputError(f"{tokenizer}: it has {tokens} tokens, the embedding of {part} {rows}")
    zero_null = layout.style == "sdxl" and bool(read.index.get("force_zeros_for_empty_prompt", True))
    return TextConditioner(encoders, layout.style, context_dim, zero_null)
