"""A run's model with an average of another length than the one it was saved with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from ldm_jax.errors import InputError
from ldm_jax.models import unstack_blocks
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.training.averages import FOLDER, read_snapshots, rebuild


def check_snapshots(run: Path, field: str) -> None:
    """InputError where a folder is no run that has left snapshots and a model."""
    if not read_snapshots(run / FOLDER):
        raise InputError(f"{field}: {run} has no snapshots to average; train with --stages.denoiser.averages.every N")
    if not (run / "model").is_dir():
        raise InputError(f"{field}: {run} has no model yet; finish its training first")


def with_average(model: LatentDiffusion, run: Path, length: float, step: int | None = None) -> LatentDiffusion:
    """The run's model with the average of that length at that step (None: the last) in place of its own.

    length: see `training.averages.Profiles`. Raises InputError where there are no snapshots, or none of that step.
    """
    check_snapshots(run, "run")
    found = rebuild(run / FOLDER, length, step)

    def placed(new: object, old: jax.Array) -> jax.Array:
        return jax.device_put(jnp.asarray(new, old.dtype), old.sharding)

    return dataclasses.replace(
        model,
        denoiser_params=jax.tree.map(placed, unstack_blocks(found["denoiser"]), model.denoiser_params),
        condition_params=jax.tree.map(placed, found.get("conditions", {}), model.condition_params),
    )
