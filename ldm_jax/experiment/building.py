"""From an experiment's parts to its stages."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ldm_jax import seeds
from ldm_jax.cache import Latents, cache_condition, encode_all, weights_hash
from ldm_jax.config import Config
from ldm_jax.experiment.parts import Parts
from ldm_jax.experiment.prior import cached_prior
from ldm_jax.experiment.workdir import identity
from ldm_jax.mesh import AXIS
from ldm_jax.models import LPIPS, Discriminator, make_denoiser
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.stages import AutoencoderTraining, DenoiserTraining
from ldm_jax.stages.adapter import AdapterStage
from ldm_jax.stages.autoencoder import AutoencoderStage
from ldm_jax.stages.computing import computed
from ldm_jax.stages.denoiser import DenoiserStage, Shuffle
from ldm_jax.stages.embedding import EmbeddingStage
from ldm_jax.stages.held_out import held_out
from ldm_jax.training.stage import Params

AUTOENCODER, DENOISER, SHUFFLE, TEST, PRIOR = range(5)
"""The purposes of randomness: keys are the seed folded with one of these."""


def key_for(config: Config, purpose: int) -> jax.Array:
    """The key of one purpose."""
    return jax.random.fold_in(seeds.key(config.seed), purpose)


def autoencoder_stage(parts: Parts, perceptual: Sequence[tuple[LPIPS, Any]]) -> AutoencoderStage:
    """The first stage; perceptual: the networks of its LPIPS and their parameters."""
    base, training = parts.base, parts.config.stage(AutoencoderTraining)
    discriminator = Discriminator(training.discriminator) if training.loss.adversarial_weight else None
    return AutoencoderStage(
        training,
        computed(base.autoencoder, training),
        None if discriminator is None else computed(discriminator, training),
        [(computed(network, training), params) for network, params in perceptual],
        parts.loader,
        held_out(parts.loader, parts.test),
        axis_name=AXIS if parts.config.parallel == "pmap" else None,
        given=base.autoencoder_params,
    )


def latents_of(parts: Parts, params: Params, workdir: Path) -> Latents:
    """The training set in latent space, encoded now where it isn't yet."""
    data = parts.config.data
    where = workdir / "latents", parts.base.autoencoder, params, parts.loader
    return encode_all(*where, identity(data.source, data.limit), data.batch_size, dtype=data.latents)


def first_stage_model(parts: Parts, params: Params, latents: Latents) -> LatentDiffusion:
    """All parts but the denoiser."""
    base, config = parts.base, parts.config
    known: dict[str, Any] = {"autoencoder": base.autoencoder, "autoencoder_params": params}
    known |= {"process": config.process, "conditions": parts.conditions, "shape": tuple(parts.loader.shape)}
    if base.model is not None:
        # Its denoiser knows latents that are normalised as they came.
        return dataclasses.replace(base.model, **known)
    return LatentDiffusion(latent_mean=latents.mean, latent_std=latents.std, sampling=config.sampling, **known)


def denoiser_stage(parts: Parts, model: LatentDiffusion, latents: Latents, workdir: Path) -> DenoiserStage:
    """The second stage, with adapters where the experiment has them; what the conditions read is cached."""
    base, config, loader = parts.base, parts.config, parts.loader
    training = config.stage(DenoiserTraining)
    module, given = base.denoiser or (make_denoiser(config.denoiser), None)  # type: ignore[arg-type]
    inputs = {"autoencoder": latents.weights, "latents": latents.digest}
    kind = DenoiserStage
    if training.adapter is not None or training.embedding is not None:
        kind = AdapterStage if training.adapter is not None else EmbeddingStage
        inputs["denoiser"] = weights_hash(given)
    if training.embedding is not None:
        inputs["text"] = weights_hash({name: one.params for name, one in model.text.encoders.items()})  # type: ignore[union-attr]
    if base.added:
        inputs["classes"] = hashlib.sha256(json.dumps(base.added).encode()).hexdigest()
    prior = None
    if parts.prior is not None:
        prior = cached_prior(config, training.prior, parts.prior, model, workdir, config.seed + PRIOR)
        inputs["prior"] = prior.latents.digest
    folder, data = workdir / "conditions", identity(config.data.source, config.data.limit)
    return kind(
        training,
        model,
        module,
        latents,
        {
            condition.name: cache_condition(folder / condition.name, condition, loader, data)
            for condition in parts.conditions
        },
        held_out(loader, parts.test),
        config.data.batch_size,
        Shuffle(config.seed + SHUFFLE, loader.process_index, loader.process_count),
        key_for(config, TEST),
        seed=config.seed,
        given=given,
        inputs=inputs,
        prior=prior,
    )
