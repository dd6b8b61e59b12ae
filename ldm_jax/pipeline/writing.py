"""Models into folders: our own, and the pipelines of diffusers as they have them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldm_jax.conditions import Condition, NoisedImage, SavedCondition, TextCondition, WithFiles
from ldm_jax.errors import InputError
from ldm_jax.pipeline.layouts import DENOISER_FOLDERS, LOW_RES, PIPELINES, SCORED, Layout
from ldm_jax.pretrained.parts import read_json, save_part
from ldm_jax.pretrained.writing import write_bytes, write_json
from ldm_jax.serialization import to_tree

if TYPE_CHECKING:
    from ldm_jax.pipeline.model import LatentDiffusion


FORMAT = 2
"""The version of our own model_index.json; 1 had no such entry."""


def save(model: LatentDiffusion, path: Path) -> None:
    """See `LatentDiffusion.save`."""
    index = _save_ours(model, path) if model.published is None else _save_published(model, path, model.published)
    write_json(path / "model_index.json", index)


def _save_ours(model: LatentDiffusion, path: Path) -> dict[str, Any]:
    statistics = {"latents_mean": model.latent_mean.tolist(), "latents_std": model.latent_std.tolist()}
    rank = len(model.shape) - 1
    save_part(model.autoencoder, model.autoencoder_params, path / "vae", extra=statistics, rank=rank)
    index: dict[str, Any] = {
        "_class_name": "LatentDiffusion",
        "_library": "ldm_jax",
        "format": FORMAT,
        "vae": ["ldm_jax", type(model.autoencoder).__name__],
        "shape": list(model.shape),
        "process": to_tree(model.process),
        "sampling": to_tree(model.sampling),
        # Without a denoiser nobody is told anything, and what is trained with it isn't there yet.
        "conditions": [_saved(c, model, path) for c in model.conditions if model.denoiser is not None],
    }
    if model.denoiser is not None:
        folder = DENOISER_FOLDERS[type(model.denoiser)]
        save_part(model.denoiser, model.denoiser_params, path / folder, rank=rank)
        index[folder] = ["ldm_jax", type(model.denoiser).__name__]
    return index


def _saved(condition: Condition, model: LatentDiffusion, path: Path) -> Any:
    """The condition as JSON; its parts are written beside the model's."""
    if isinstance(condition, WithFiles):
        return to_tree(condition.save(model.condition_params.get(condition.name, {}), path), SavedCondition)
    return to_tree(condition, SavedCondition)


def _save_published(model: LatentDiffusion, path: Path, name: str) -> dict[str, Any]:
    layout = PIPELINES[name]
    index: dict[str, Any] = {"_class_name": name, "_diffusers_version": "0.30.0"}

    def part(folder: str, module: Any, params: Any, extra: dict[str, Any]) -> None:
        save_part(module, params, path / folder, extra)
        record = read_json(path / folder / "config.json")
        library = "diffusers" if "_class_name" in record else "transformers"
        index[folder] = [library, record.get("_class_name") or record["architectures"][0]]

    part(layout.autoencoder, model.autoencoder, model.autoencoder_params, _published_statistics(model, layout))
    size = {"sample_size": model.latent_shape[0]}
    part(layout.denoiser, model.denoiser, model.denoiser_params, size)
    assert model.scheduler is not None
    (path / "scheduler").mkdir(exist_ok=True)
    write_json(path / "scheduler" / "scheduler_config.json", model.scheduler.record)
    index["scheduler"] = ["diffusers", model.scheduler.record["_class_name"]]
    index |= _save_text(model, path, layout, part)
    index |= {part: [None, None] for part in layout.left_out}
    if "safety_checker" in layout.left_out and layout.joined != "noised":
        index["requires_safety_checker"] = False
    noised = model.condition(NoisedImage)
    if noised is not None:
        (path / LOW_RES).mkdir(exist_ok=True)
        write_json(path / LOW_RES / "scheduler_config.json", noised.record)
        index |= {LOW_RES: ["diffusers", noised.record["_class_name"]], "max_noise_level": noised.most}
    if model.class_names:
        index["id2label"] = {str(i): label for i, label in enumerate(model.class_names)}
    return index


def _save_text(model: LatentDiffusion, path: Path, layout: Layout, part: Any) -> dict[str, Any]:
    """Text encoders and tokenizers, and their entries of the index besides those that `part` makes."""
    index: dict[str, Any] = {}
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
        text = model.condition(TextCondition)
        index |= {SCORED: True} if text.scores is not None else {}
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
