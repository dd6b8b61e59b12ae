"""The denoiser's loss: one number an example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.config import DiffusionConfig
from ldm_jax.diffusion.prediction import estimate, expand, target
from ldm_jax.diffusion.samplers import normal
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.diffusion.times import sample_times
from ldm_jax.models import Conditioning, DiT, MMDiT, UNet, apply
from ldm_jax.models.autoencoder import Posterior
from ldm_jax.training.adversarial import per_example
from ldm_jax.training.step import LossFn


def denoiser_loss(
    module: DiT | UNet | MMDiT,
    config: DiffusionConfig,
    schedule: Schedule,
    latent_mean: Float[Array, "c"],
    latent_std: Float[Array, "c"],
) -> LossFn:
    """Squared error of the network's prediction at a random time.

    batch: mean, logvar [b h w c], the raw latents' posterior; label [b], negative for none. A fresh posterior sample is
    drawn, normalised per channel, noised, and its label dropped with probability label_dropout.
    """

    def loss_fn(params, batch, keys):
        posterior_keys, noise_keys, time_keys, drop_keys = jax.vmap(lambda k: jax.random.split(k, 4))(keys).T
        posterior = Posterior(batch["mean"], batch["logvar"])
        z = posterior.sample(normal(posterior_keys, posterior.mean))
        x0 = (z - expand_channels(latent_mean, z)) / expand_channels(latent_std, z)

        t = sample_times(config.times, time_keys, config.times_mean, config.times_std)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        eps = normal(noise_keys, x0)
        z_t = expand(alpha, x0) * x0 + expand(sigma, x0) * eps

        classes = module.config.num_classes
        dropped = jax.vmap(jax.random.uniform)(drop_keys) < config.label_dropout
        label = jnp.where(dropped | (batch["label"] < 0), classes, batch["label"])
        output = apply(module, params, z_t, t, Conditioning(label=label if classes else None))
        if config.loss == config.prediction:
            error = output - target(config.loss, x0, eps, alpha, sigma)
        else:
            guess = estimate(config.prediction, output, z_t, alpha, sigma)
            error = target(config.loss, *guess, alpha, sigma) - target(config.loss, x0, eps, alpha, sigma)
        return per_example(jnp.square(error)), {}

    return loss_fn


def expand_channels(per_channel: Float[Array, "c"], like: Float[Array, "b *space c"]) -> Float[Array, "..."]:
    """[c] with leading axes added until it broadcasts against like."""
    return per_channel.reshape((1,) * (like.ndim - 1) + (-1,))
