"""Whole models in folders: our own, and the pipelines of diffusers, read and written."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.config import DiffusionConfig, SamplingConfig, from_dict
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
from ldm_jax.pipeline.model import LatentDiffusion
from ldm_jax.pipeline.process import OWN_SAMPLER, Scheduler
from ldm_jax.pipeline.prompts import Encoder, Style, TextConditioner
from ldm_jax.pretrained.conversion import SETTINGS
from ldm_jax.pretrained.parts import load_part, read_json, save_part
from ldm_jax.pretrained.tokenization import load_tokenizer
from ldm_jax.pretrained.writing import write_bytes, write_json

log = logging.getLogger("ldm_jax")


class Layout(NamedTuple):
    """A pipeline of diffusers: the names of its parts, and what it samples with where nobody says otherwise."""

    autoencoder: str
    denoiser: str
    encoders: tuple[tuple[str, str], ...] = ()
    """Text encoders and their tokenizers."""
    style: Style = "tokens"
    steps: int = 50
    guidance: float = 1.0
    scaled: bool = True
    """Latents are scaled by the VAE's scaling_factor; LDM's super-resolution takes them as they are."""


ONE = (("text_encoder", "tokenizer"),)
TWO = (*ONE, ("text_encoder_2", "tokenizer_2"))
THREE = (*TWO, ("text_encoder_3", "tokenizer_3"))
PIPELINES = {
    "StableDiffusionPipeline": Layout("vae", "unet", ONE, "tokens", 50, 7.5),
    "StableDiffusionXLPipeline": Layout("vae", "unet", TWO, "sdxl", 50, 5.0),
    "StableDiffusion3Pipeline": Layout("vae", "transformer", THREE, "sd3", 28, 7.0),
    "DiTPipeline": Layout("vae", "transformer", steps=50, guidance=4.0),
    "LDMPipeline": Layout("vqvae", "unet"),
    "LDMSuperResolutionPipeline": Layout("vqvae", "unet", steps=100, scaled=False),
    "LDMTextToImagePipeline": Layout("vqvae", "unet", (("bert", "tokenizer"),)),
}
DENOISER_FOLDERS: dict[str, type] = {"transformer": DiT, "unet": UNet}
"""Where our own models have their denoiser, named as diffusers names it."""
OLD_NAMES = {"LatentDiffusionUncondPipeline": "LDMPipeline", "LatentDiffusionPipeline": "LDMTextToImagePipeline"}
"""Names of the first diffusers releases, which some repositories still have."""


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    variant: str | None = None,
    sharding: Any = None,
    without: Sequence[str] = (),
) -> LatentDiffusion:
    """The model in a folder: one that `LatentDiffusion.save` wrote, a run's folder, or a pipeline of diffusers.

    Pipelines: Stable Diffusion 1 and 2, SDXL, SD3, DiT, LDM (unconditional, super-resolution, text-to-image).
    dtype: of parameters and arithmetic, float32 or bfloat16. variant: "fp16" for files of that name. sharding: see
    `load_part`; the default device where None, every device of this process with `everywhere()`, which then share each
    batch. without: parts to leave out, such as SD3's large text_encoder_3 (its tokens are then zeros, as SD3 was
    trained to bear). InputError in one line for anything else or damaged.
    """
    path = Path(path)
    if not (path / "model_index.json").is_file() and (path / "model" / "model_index.json").is_file():
        path = path / "model"
    if not (path / "model_index.json").is_file():
        raise InputError(f"model: {path} has no model_index.json; name a finished run's folder or its model/")
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype: {dtype!r} must be float32 or bfloat16")
    index = read_json(path / "model_index.json")
    name = index.get("_class_name")
    read = Reader(path, index, dtype, variant, sharding, tuple(without))
    if name == "LatentDiffusion":
        return _load_ours(read)
    name = OLD_NAMES.get(name, name) if isinstance(name, str) else None
    if name not in PIPELINES:
        known = ", ".join(["LatentDiffusion", *PIPELINES])
        raise InputError(f"model: _class_name {index.get('_class_name')!r} of {path} is not one of {known}")
    return _load_published(read, name)


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


def _load_ours(read: Reader) -> LatentDiffusion:
    index = read.index
    autoencoder, autoencoder_params, statistics = read.part("vae", *AUTOENCODERS.values())
    denoiser, denoiser_params = None, None
    for folder, kind in DENOISER_FOLDERS.items():
        if folder in index:
            denoiser, denoiser_params, _ = read.part(folder, kind)
    try:
        return LatentDiffusion(
            autoencoder=autoencoder,
            autoencoder_params=autoencoder_params,
            latent_mean=np.asarray(statistics["latents_mean"], np.float32),
            latent_std=np.asarray(statistics["latents_std"], np.float32),
            image_size=int(index["image_size"]),
            denoiser=denoiser,
            denoiser_params=denoiser_params,
            diffusion=from_dict(DiffusionConfig, index["diffusion"], "diffusion."),
            sampling=from_dict(SamplingConfig, index["sampling"], "sampling."),
            class_names=tuple(index["class_names"]),
        )
    except KeyError as error:
        raise InputError(f"model: {read.path} lacks {error.args[0]}") from error


def _load_published(read: Reader, name: str) -> LatentDiffusion:
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
    if extra and name != "LDMSuperResolutionPipeline":
        raise InputError(
            f"{layout.denoiser}.in_channels: {denoiser.config.in_channels} must be the latents' {channels}"
        )
    names = read.index.get("id2label")
    names = {int(key): str(value) for key, value in names.items() if key.isdigit()} if isinstance(names, dict) else {}
    scheduler = read_json(read.path / "scheduler" / "scheduler_config.json")
    return LatentDiffusion(
        autoencoder=autoencoder,
        autoencoder_params=autoencoder_params,
        latent_mean=mean,
        latent_std=std,
        image_size=size * config.factor,
        denoiser=denoiser,
        denoiser_params=denoiser_params,
        diffusion=Scheduler(json.dumps(scheduler)),
        sampling=SamplingConfig(OWN_SAMPLER, layout.steps, layout.guidance),
        class_names=tuple(names[key] for key in sorted(names)),
        text=_text(read, layout, getattr(denoiser.config, "context_dim", 0)) if layout.encoders else None,
        published=name,
    )


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


def _text(read: Reader, layout: Layout, context_dim: int) -> TextConditioner:
    encoders = {}
    for part, tokenizer in layout.encoders:
        if part == "text_encoder_3" and not read.has(part):
            continue
        module, params, _ = read.part(part, T5Encoder if part == "text_encoder_3" else TextEncoder)
        folder = read.path / tokenizer
        files = {name: (folder / name).read_bytes() for name in SETTINGS if (folder / name).is_file()}
        encoders[part] = Encoder(module, params, load_tokenizer(folder), files)
    zero_null = layout.style == "sdxl" and bool(read.index.get("force_zeros_for_empty_prompt", True))
    return TextConditioner(encoders, layout.style, context_dim, zero_null)


def save(model: LatentDiffusion, path: Path) -> None:
    """See `LatentDiffusion.save`."""
    index = _save_ours(model, path) if model.published is None else _save_published(model, path, model.published)
    write_json(path / "model_index.json", index)


def _save_ours(model: LatentDiffusion, path: Path) -> dict[str, Any]:
    statistics = {"latents_mean": model.latent_mean.tolist(), "latents_std": model.latent_std.tolist()}
    save_part(model.autoencoder, model.autoencoder_params, path / "vae", extra=statistics)
    index: dict[str, Any] = {
        "_class_name": "LatentDiffusion",
        "_library": "ldm_jax",
        "vae": ["ldm_jax", type(model.autoencoder).__name__],
        "image_size": model.image_size,
        "diffusion": dataclasses.asdict(model.diffusion),
        "sampling": dataclasses.asdict(model.sampling),
        "class_names": list(model.class_names),
    }
    for folder, kind in DENOISER_FOLDERS.items():
        if model.denoiser is not None and isinstance(model.denoiser, kind):
            save_part(model.denoiser, model.denoiser_params, path / folder)
            index[folder] = ["ldm_jax", kind.__name__]
    return index


def _save_published(model: LatentDiffusion, path: Path, name: str) -> dict[str, Any]:
    layout = PIPELINES[name]
    index: dict[str, Any] = {"_class_name": name, "_diffusers_version": "0.30.0"}

    def part(folder: str, module: Any, params: Any, extra: dict[str, Any]) -> None:
        save_part(module, params, path / folder, extra)
        record = read_json(path / folder / "config.json")
        library = "diffusers" if "_class_name" in record else "transformers"
        index[folder] = [library, record.get("_class_name") or record["architectures"][0]]

    part(layout.autoencoder, model.autoencoder, model.autoencoder_params, _published_statistics(model, layout))
    size = {"sample_size": model.image_size // model.autoencoder.config.factor}
    part(layout.denoiser, model.denoiser, model.denoiser_params, size)
    assert isinstance(model.diffusion, Scheduler)
    (path / "scheduler").mkdir(exist_ok=True)
    write_json(path / "scheduler" / "scheduler_config.json", model.diffusion.record)
    index["scheduler"] = ["diffusers", model.diffusion.record["_class_name"]]
    if model.text is not None:
        tokenizers = dict(layout.encoders)
        for folder, encoder in model.text.encoders.items():
            part(folder, encoder.module, encoder.params, {})
            tokenizer = tokenizers[folder]
            (path / tokenizer).mkdir(exist_ok=True)
            for file, data in encoder.files.items():
                write_bytes(path / tokenizer / file, data)
            kinds = {"bert": "BertTokenizer", "text_encoder_3": "T5TokenizerFast"}
            index[tokenizer] = ["transformers", kinds.get(folder, "CLIPTokenizer")]
        for folder, tokenizer in layout.encoders:
            if folder not in model.text.encoders:
                index |= {folder: [None, None], tokenizer: [None, None]}
    if layout.style == "sdxl" and model.text is not None:
        index["force_zeros_for_empty_prompt"] = model.text.zero_null
    if name == "StableDiffusionPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    if model.class_names:
        index["id2label"] = {str(i): label for i, label in enumerate(model.class_names)}
    return index


def _published_statistics(model: LatentDiffusion, layout: Layout) -> dict[str, Any]:
    """The VAE's settings that say how its latents are normalised."""

    def rounded(value: float) -> float:
        return float(f"{value:.12g}")

    if not layout.scaled:
        return {}
    mean, std = np.asarray(model.latent_mean, np.float64), np.asarray(model.latent_std, np.float64)
    if len(set(mean)) == 1 and len(set(std)) == 1:
        shift = {"shift_factor": rounded(mean[0])} if mean[0] or layout.style == "sd3" else {}
        return {"scaling_factor": rounded(1.0 / std[0]), **shift}
    if layout.style != "sdxl":
        raise InputError("latent_mean, latent_std: this pipeline of diffusers has one of each for all channels")
    return {"scaling_factor": 1.0, "latents_mean": mean.tolist(), "latents_std": std.tolist()}
