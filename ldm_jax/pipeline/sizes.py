"""What size of images a model is for, from its files' descriptions alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm_jax.errors import InputError
from ldm_jax.pipeline.layouts import PIPELINES, layout_of, model_folder
from ldm_jax.pretrained.parts import open_part, read_json


def image_size_of(path: Path) -> int:
    """Side in pixels of the images of the model in a folder, of which no weights are read; InputError for none."""
    folder = model_folder(path)
    if folder is None:
        raise InputError(
            f"model: {path} has no model_index.json; name a finished run's folder, its model/ or a pipeline"
        )
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if name == "LatentDiffusion":
        shape = index.get("shape")
        size: Any = shape[0] if isinstance(shape, list) and shape else index.get("image_size")
    else:
        layout = PIPELINES[layout_of(name, folder)]
        size = read_json(folder / layout.denoiser / "config.json").get("sample_size")
        size = size[0] if isinstance(size, list) and size else size
        autoencoder: Any = open_part(folder / layout.autoencoder).module
        size = size * autoencoder.config.factor if type(size) is int else size
    if type(size) is not int or size < 1:
        raise InputError(f"model: {folder} does not tell what size its images have; give --data.image-size")
    return size
