"""What stands between encoder and decoder in training: the KL posterior, the VQ codebook, FSQ, or nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ldm_jax.diffusion.samplers import normal
from ldm_jax.models import Posterior, QuantizedAutoencoder, VQAutoencoder, apply
from ldm_jax.models.vq import nearest
from ldm_jax.stages.adversarial import per_example
from ldm_jax.stages.autoencoder_config import AutoencoderLoss
from ldm_jax.training.stage import Metrics, Params

DECAY = 0.99
"""Of a codebook's averages, per step."""


class Bottleneck(NamedTuple):
    """z: what the decoder gets [b *space c]; penalty: a loss [b] per latent element or (KL) per image element."""

    z: Float[Array, "b ... c"]
    penalty: Float[Array, "b"]
    metrics: Metrics


def move(old: Any, new: Any) -> Array:
    """A zero whose gradient with respect to `old` is old - new: one descent step of rate 1 goes there.

    This is how averages that are no one's gradient (a codebook's, the discriminator's logits') live among the
    parameters: they are averaged over devices and micro-batches, and saved, like everything else.
    """
    terms = jax.tree.map(lambda o, n: (o - lax.stop_gradient(o)) * lax.stop_gradient(o - n), old, new)
    return sum((term.sum() for term in jax.tree.leaves(terms)), jnp.zeros(()))


def bottleneck(
    module: Any,
    params: Params,
    encoded: Any,
    keys: Array,
    config: AutoencoderLoss,
    elements: int,
    axis_name: str | None,
) -> Bottleneck:
    """What `encode` gave, as the decoder shall see it in training; elements: of one image.

    params: {"autoencoder": ..., "statistics": {"codebook": ...}}, the latter for a codebook of averages alone.
    """
    if isinstance(encoded, Posterior):
        kl = encoded.kl()
        z = encoded.sample(normal(keys, encoded.mean))
        return Bottleneck(z, config.kl_weight * kl / elements, {"kl": kl})
    if isinstance(module, VQAutoencoder):
        return _vector(module, params, encoded, keys, config, axis_name)
    if isinstance(module, QuantizedAutoencoder):
        z = apply(module, params["autoencoder"], encoded, method="quantize")
        indices = apply(module, params["autoencoder"], lax.stop_gradient(encoded), method="indices")
        frequencies = code_frequencies(indices, module.config.codebook_size, axis_name)
        return Bottleneck(z, jnp.zeros(len(z)), _report(frequencies, len(z)))
    return Bottleneck(encoded, jnp.zeros(len(encoded)), {})


def code_frequencies(indices: Int[Array, "b ..."], size: int, axis_name: str | None = None) -> Float[Array, "k"]:
    """The share of each code among `indices`, over all devices."""
    counts = jnp.zeros(size).at[indices.reshape(-1)].add(1.0) / indices.size
    return counts if axis_name is None else lax.pmean(counts, axis_name)


def perplexity(frequencies: Float[Array, "k"]) -> Float[Array, ""]:
    """exp of the entropy: how many codes, used alike, would be as varied."""
    return jnp.exp(-(frequencies * jnp.log(jnp.maximum(frequencies, 1e-10))).sum())


def _report(frequencies: Float[Array, "k"], examples: int) -> Metrics:
    numbers = {"perplexity": perplexity(frequencies), "codes_used": (frequencies > 0).mean()}
    return {name: jnp.broadcast_to(value, (examples,)) for name, value in numbers.items()}


def codebook_statistics(codebook: Float[Array, "k d"], config: AutoencoderLoss) -> dict[str, Array]:
    """The averages behind a codebook at the start: entries that the first batch doesn't use restart at once."""
    usage = jnp.full(len(codebook), config.restart_below / len(codebook))
    return {"usage": usage, "sums": codebook * usage[:, None]}


def _vector(
    module: VQAutoencoder, params: Params, z: Array, keys: Array, config: AutoencoderLoss, axis_name: str | None
) -> Bottleneck:
    """van den Oord et al. 2017 (arXiv 1711.00937), eq. 3, and with `codebook` "ema" their appendix A.1."""
    book = params["autoencoder"]["codebook"]
    indices = nearest(lax.stop_gradient(book), lax.stop_gradient(z))
    codes = jnp.take(book, indices, axis=0)
    frequencies = code_frequencies(indices, len(book), axis_name)

    penalty = config.commitment * per_example(jnp.square(z - lax.stop_gradient(codes)))
    if config.codebook == "ema":
        statistics = params["statistics"]["codebook"]
        new_book, moved = _averaged(book, statistics, z, indices, frequencies, keys, config, axis_name)
        penalty = penalty + move(book, new_book) + move(statistics, moved)
    else:
        penalty = penalty + per_example(jnp.square(lax.stop_gradient(z) - codes))
    return Bottleneck(z + lax.stop_gradient(codes - z), penalty, _report(frequencies, len(z)))


def _averaged(
    book: Array,
    statistics: Any,
    z: Array,
    indices: Array,
    frequencies: Array,
    keys: Array,
    config: AutoencoderLoss,
    axis_name: str | None,
) -> tuple[Array, Any]:
    """The next codebook and its averages.

    Codes that have become rare are put onto latents of the batch, where they are used again (Dhariwal et al. 2020,
    arXiv 2005.00341, section 3.1).
    """
    flat, assigned, seeds = z.reshape(-1, z.shape[-1]), indices.reshape(-1), jax.random.key_data(keys)
    if axis_name is not None:
        # All devices see all latents, so that they move the codebook alike.
        flat, assigned, seeds = (lax.all_gather(x, axis_name, tiled=True) for x in (flat, assigned, seeds))
    seed = jax.random.wrap_key_data(seeds[0], impl=jax.random.key_impl(keys))
    sums = jnp.zeros_like(book).at[assigned].add(flat) / len(flat)
    usage = DECAY * statistics["usage"] + (1.0 - DECAY) * frequencies
    sums = DECAY * statistics["sums"] + (1.0 - DECAY) * sums
    rare = usage < config.restart_below / len(book)
    usage = jnp.where(rare, 1.0 / len(book), usage)
    sums = jnp.where(rare[:, None], jax.random.choice(seed, flat, (len(book),)) / len(book), sums)
    return sums / usage[:, None], {"usage": usage, "sums": sums}
