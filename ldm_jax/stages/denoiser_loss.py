"""The denoiser's loss: one number an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.conditions import Condition, training_conditioning
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.samplers import normal
from ldm_jax.models import Posterior, apply
from ldm_jax.pipeline.compiled import expand_channels
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
) -> Loss:
    """The process's loss of the network's output at a random time.

    batch: mean, logvar [b *space c], the raw latents' posterior; index [b]; conditions, the arrays of each by its name;
    weight [b] of each example's loss, 1 where it isn't there.
    A fresh posterior sample is drawn, normalised per channel and noised; each condition is dropped by its own coin.
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
        posterior = Posterior(batch["mean"], batch["logvar"])
        z = posterior.sample(normal(posterior_keys, posterior.mean))
        x0 = (z - expand_channels(mean, z)) / expand_channels(std, z)

        t = process.sample_times(time_keys, batch.get("index"), count)
        extra = jax.vmap(jax.random.fold_in, (0, None))(noise_keys, 1)
        seen, eps = process.noise(extra, normal(noise_keys, x0))
        z_t = process.add_noise(x0, seen, t)

        told = batch.get("conditions", {})
        cond = training_conditioning(conditions, params.get("conditions", {}), told, drop_keys)
        network = weights(params, context)
        output = apply(module, network, process.network_input(z_t, t), process.network_time(t), cond)
        loss = process.example_loss(output, x0, eps, z_t, t)
        return (loss * batch["weight"] if "weight" in batch else loss), {}

    return loss_fn
