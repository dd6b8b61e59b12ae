"""The denoiser's loss: one number an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.conditions import Condition, training_conditioning
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.samplers import normal
from ldm_jax.models import Conditioning, Posterior, apply
from ldm_jax.pipeline.compiled import expand_channels
from ldm_jax.stages.objectives import Denoising, Objective, Problem
from ldm_jax.training.made_once import made_once
from ldm_jax.training.stage import Batch, Context, Loss, Metrics, Params

Weights = Callable[[Params, Context], Params]


def own_weights(params: Params, context: Context) -> Params:
    """The denoiser's parameters where they are themselves trained."""
    return params["denoiser"]


@made_once
def denoiser_loss(
    module: Any,
    process: Process,
    latent_mean: tuple[float, ...] | Float[Array, "c"],
    latent_std: tuple[float, ...] | Float[Array, "c"],
    conditions: Sequence[Condition] = (),
    *,
    weights: Weights = own_weights,
    count: int | None = None,
    objective: Objective = Denoising(),  # noqa: B008
    posterior: Literal["sample", "mean"] = "sample",
) -> Loss:
    """The objective's loss, by default the process's of the network's output at a random time.

    batch: mean, logvar [b *space c], the raw latents' posterior; index [b]; conditions, the arrays of each by its name;
    weight [b] of each example's loss, 1 where it isn't there.
    The posterior's sample or mean is normalised per channel and noised; each condition is dropped by its own coin.
    params: {"denoiser": ..., "conditions": {name: ...}}. weights: the network's parameters from the trained ones, which
    are others with adapters. count: the global batch, for stratified times.
    """

    mean, std = jnp.asarray(latent_mean, jnp.float32), jnp.asarray(latent_std, jnp.float32)

    def loss_fn(
        params: Params,
        batch: Batch,
        keys: Array,
        context: Context = Context(),  # noqa: B008
    ) -> tuple[Float[Array, "b"], Metrics]:
        posterior_keys, noise_keys, time_keys, drop_keys = jax.vmap(lambda k: jax.random.split(k, 4))(keys).T
        found = Posterior(batch["mean"], batch["logvar"])
        z = found.sample(normal(posterior_keys, found.mean)) if posterior == "sample" else found.mean
        x0 = (z - expand_channels(mean, z)) / expand_channels(std, z)

        given = batch.get("conditions", {})

        def network(
            z: Array, t: Array, interval: Array | None = None, /, *, told: bool = True, averaged: bool = False
        ) -> Array:
            own = context.ema if averaged and context.ema is not None else params
            # Once, outside of what the objective may differentiate by time.
            cond = usual if told and own is params else conditioning(own, told)
            return apply(module, weights(own, context), z, t, cond._replace(interval=interval))

        def conditioning(params: Params, told: bool) -> Conditioning:
            return training_conditioning(conditions, params.get("conditions", {}), given, drop_keys, told=told)

        usual = conditioning(params, True)

        problem = Problem(process, network, x0, noise_keys, time_keys, batch.get("index"), count)
        loss, metrics = objective.loss(problem)
        return (loss * batch["weight"] if "weight" in batch else loss), metrics

    return loss_fn
