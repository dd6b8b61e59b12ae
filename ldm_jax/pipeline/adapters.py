"""LoRA files merged into a whole model, and words added to its text encoders."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions import Encoder, TextCondition
from ldm_jax.errors import InputError
from ldm_jax.pipeline.layouts import DENOISER_FOLDERS
from ldm_jax.pretrained.clip_vocabulary import END
from ldm_jax.pretrained.embeddings import read_word
from ldm_jax.pretrained.lora import load_loras, merge

if TYPE_CHECKING:
    from ldm_jax.pipeline.model import LatentDiffusion


def with_lora(model: LatentDiffusion, path: str | Path, weight: Any = 1.0) -> LatentDiffusion:
    """See `LatentDiffusion.load_lora`."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise InputError(f"lora: weight {weight!r} must be a finite number")
    if model.denoiser is None:
        raise InputError("lora: this model holds an autoencoder alone")
    part = DENOISER_FOLDERS[type(model.denoiser)]
    encoders = _published_encoders(model)
    modules: dict[str, Any] = {part: model.denoiser} | {name: one.module for name, one in encoders.items()}
    found = load_loras(path, modules)
    params = merge(model.denoiser_params, found.pop(part, {}), weight)
    told = {name: encoders[name]._replace(params=merge(encoders[name].params, found[name], weight)) for name in found}
    return dataclasses.replace(_with_encoders(model, told), denoiser_params=params)


def with_word(model: LatentDiffusion, path: str | Path, token: str | None = None) -> LatentDiffusion:
    """See `LatentDiffusion.load_embedding`."""
    encoders = _published_encoders(model)
    if not encoders:
        raise InputError("embedding: this model has no published text encoder")
    word = read_word(path, token)
    widths = {name: one.module.config.width for name, one in encoders.items()}
    vectors = dict(word.vectors)
    if "" in vectors:
        width = vectors[""].shape[1]
        # As diffusers does: of several encoders of that width the first.
        first = next((name for name in widths if widths[name] == width), None)
        vectors = {} if first is None else {first: vectors[""]}
    if not vectors or any(widths.get(name) != array.shape[1] for name, array in vectors.items()):
        held = ", ".join(str(array.shape[1]) for array in word.vectors.values())
        takes = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise InputError(f"embedding: {path} has {held} features a token, this model's encoders take {takes}")
    return _with_encoders(
        model, {name: with_tokens(encoders[name], word.tokens, array) for name, array in vectors.items()}
    )


def with_rows(params: Any, ids: Sequence[Any], rows: Any) -> Any:
    """A text encoder's parameters with the rows `ids` of its table of tokens replaced by `rows` [n d]."""
    table = jnp.asarray(params["tokens"]["embedding"])
    return {**params, "tokens": {"embedding": table.at[jnp.asarray(ids)].set(jnp.asarray(rows, table.dtype))}}


def with_tokens(encoder: Encoder, tokens: list[str], vectors: np.ndarray) -> Encoder:
    """The encoder with new tokens, whose embeddings are `vectors` [n d]; InputError where one is there already."""
    tokenizer = encoder.tokenizer.with_tokens(tokens)
    ids = [tokenizer.id_of(token) for token in tokens]
    table = encoder.params["tokens"]["embedding"]
    rows = max(len(table), tokenizer.size)
    table = jnp.concatenate([table, jnp.zeros((rows - len(table), table.shape[1]), table.dtype)])
    params = with_rows({**encoder.params, "tokens": {"embedding": table}}, ids, vectors)
    added = json.loads(encoder.files.get("added_tokens.json", b"{}")) | dict(zip(tokens, ids, strict=True))
    config = dataclasses.replace(encoder.module.config, vocabulary=rows)
    end = tokenizer.id_of(END)
    if getattr(config, "end_id", None) == 2 and end is not None:
        # In CLIP's old configs 2 stands for the largest id of a text, which was the end's until now.
        config = dataclasses.replace(config, end_id=end)
    module: Any = type(encoder.module)(config)  # type: ignore[arg-type]
    return Encoder(module, params, tokenizer, {**encoder.files, "added_tokens.json": json.dumps(added).encode()})


def _published_encoders(model: LatentDiffusion) -> Mapping[str, Encoder]:
    """The text encoders whose parameters are their own; those of a model of ours may be trained with it."""
    encoders = {} if model.text is None else model.text.encoders
    return {name: one for name, one in encoders.items() if one.params is not None}


def _with_encoders(model: LatentDiffusion, changed: Mapping[str, Encoder]) -> LatentDiffusion:
    conditions = tuple(
        dataclasses.replace(
            one, encoders=dataclasses.replace(one.encoders, encoders={**one.encoders.encoders, **changed})
        )
        if isinstance(one, TextCondition)
        else one
        for one in model.conditions
    )
    return dataclasses.replace(model, conditions=conditions)
