"""A model that knows more classes than it was trained with."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from ldm_jax.conditions import LabelCondition
from ldm_jax.errors import InputError
from ldm_jax.models import make_denoiser

if TYPE_CHECKING:
    from ldm_jax.pipeline.model import LatentDiffusion

TABLE = re.compile(r"label\d*")
"""What the denoisers call their tables of classes; a DiT may have one a block."""


def with_classes(model: LatentDiffusion, names: Sequence[str]) -> LatentDiffusion:
    """The model with classes of these names after its own, drawn like the mean of all until they are trained.

    Each table of classes [n + 1 d], whose last row stands for "none", gets a row for each new class before that one.
    """
    label = model.condition(LabelCondition)
    if label is None or model.denoiser is None:
        raise InputError("model: it knows no classes, so none can be added")
    config, total = model.denoiser.config, label.num_classes + len(names)
    changes: dict[str, int] = {"num_classes": total}
    if getattr(config, "class_rows", 0):
        changes["class_rows"] = total + 1
    params: dict[str, Any] = dict(model.denoiser_params)
    for part in [part for part in params if TABLE.fullmatch(part)]:
        table = jnp.asarray(params[part]["embedding"])
        classes, null = table[:-1], table[-1:]
        rows = jnp.tile(classes.mean(axis=0, keepdims=True), (len(names), 1))
        params[part] = {"embedding": jnp.concatenate([classes, rows, null])}
    longer = dataclasses.replace(label, class_names=(*label.class_names, *names))
    return dataclasses.replace(
        model,
        denoiser=make_denoiser(dataclasses.replace(config, **changes)),
        denoiser_params=params,
        conditions=tuple(longer if condition is label else condition for condition in model.conditions),
    )
