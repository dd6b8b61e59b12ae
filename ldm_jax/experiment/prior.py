"""The second source of an experiment whose denoiser keeps what it knew: opened, checked, encoded, cached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cache import cache_condition, encode_all
from ldm_jax.conditions import Condition, LabelCondition
from ldm_jax.conditions.classes import class_places
from ldm_jax.config import Config
from ldm_jax.data import Loader, Source, has_captions, open_source
from ldm_jax.errors import InputError
from ldm_jax.experiment.classes import renumbered
from ldm_jax.experiment.workdir import identity
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.stages import DenoiserTraining
from ldm_jax.stages.prior import Cached, Prior

FIELD = "stages.denoiser.prior"


def prior_of(config: Config) -> Prior | None:
    """The section, None where there is no second source."""
    training = config.stage(DenoiserTraining)
    return None if training is None else training.prior


def prior_source(config: Config, prior: Prior, conditions: Sequence[Condition]) -> Source:
    """Its examples, with the class numbers of the data; InputError where the denoiser can't be told what they are."""
    prior.rows(config.data.batch_size)
    source = open_source(prior.source, "train")
    if any("caption" in condition.fields for condition in conditions) and not has_captions(source):
        raise InputError(f"{FIELD}.source: {prior.source} has no captions, which this denoiser is told")
    label = next((condition for condition in conditions if isinstance(condition, LabelCondition)), None)
    if label is None:
        return source
    if not source.class_names:
        raise InputError(f"{FIELD}.source: {prior.source} has no classes, which this denoiser is told")
    _, unknown = class_places(source.class_names, label.class_names)
    if unknown:
        raise InputError(f"{FIELD}.source: {prior.source} has the class {unknown[0]!r}, which this denoiser lacks")
    return renumbered(source, label.class_names)


def check_alike(prior: Loader, data: Loader) -> None:
    """InputError where the two sources' examples have other shapes."""
    if prior.shape != data.shape:
        raise InputError(f"{FIELD}.source: its examples are {list(prior.shape)}, those of the data {list(data.shape)}")


def cached_prior(
    config: Config, prior: Prior, loader: Loader, model: LatentDiffusion, workdir: Path, seed: int
) -> Cached:
    """Its latents and what the conditions make of it, encoded now where that hasn't been done."""
    data = identity(prior.source)
    where = workdir / "prior" / "latents", model.autoencoder, model.autoencoder_params, loader
    latents = encode_all(*where, data, config.data.batch_size, dtype=config.data.latents)
    folder = workdir / "prior" / "conditions"
    told = {c.name: cache_condition(folder / c.name, c, loader, data) for c in model.conditions}
    return Cached(latents, told, seed)
