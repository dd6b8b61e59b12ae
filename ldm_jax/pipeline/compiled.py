"""What a model computes, compiled: a batch encoded, decoded or drawn, on one device or shared by several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from ldm_jax.diffusion import samplers
from ldm_jax.diffusion.guidance import branches, classifier_free
from ldm_jax.models import (
    Autoencoder,
    Conditioning,
    DiT,
    FSQAutoencoder,
    MMDiT,
    Posterior,
    TinyAutoencoder,
    UNet,
    VQAutoencoder,
    apply,
)
from ldm_jax.models.tiling import sliced, tiled
from ldm_jax.pipeline.devices import shared
from ldm_jax.pipeline.process import Process, Scheduler

FirstStage = Autoencoder | VQAutoencoder | FSQAutoencoder | TinyAutoencoder
Denoiser = DiT | UNet | MMDiT


class Memory(NamedTuple):
    """How a first stage is applied: tile by tile of so many of its input's positions (0: whole), one by one."""

    tile: int = 0
    sliced: bool = False

    def apply(self, fn: Callable[[Array], Any], x: Array) -> Any:
        """fn(x) in the memory that was asked for; tiles share a quarter of their side."""
        each = partial(tiled, fn, tile=self.tile, overlap=self.tile // 4) if self.tile else fn
        return sliced(each, x) if self.sliced else each(x)


@partial(jax.jit, static_argnames=("module", "memory", "mesh"))
def encode_batch(
    module: FirstStage,
    params: Any,
    mean: Array,
    std: Array,
    x: Array,
    key: Array | None,
    memory: Memory,
    mesh: Mesh | None,
) -> Array:
    """Images [b h w c] to normalised latents [b h w c]: the posterior's mean, or with a key a sample of it."""

    def encode(params: Any, x: Array) -> Any:
        return memory.apply(partial(apply, module, params, method="encode"), x)

    z = shared(encode, mesh, params, x)
    if isinstance(z, Posterior):
        posterior, z = z, z.mean
        if key is not None:
            z = posterior.sample(samplers.normal(samplers.example_keys(key, len(x)), z))
    return (z - mean[None, None, None]) / std[None, None, None]


@partial(jax.jit, static_argnames=("module", "memory", "mesh"))
def decode_batch(
    module: FirstStage, params: Any, mean: Array, std: Array, z: Array, memory: Memory, mesh: Mesh | None
) -> Array:
    """Normalised latents [b h w c] to images [b h w c], not clipped."""

    def decode(params: Any, raw: Array) -> Array:
        return memory.apply(partial(apply, module, params, method="decode"), raw)

    return shared(decode, mesh, params, z * std[None, None, None] + mean[None, None, None])


@partial(jax.jit, static_argnames=("module", "process", "interval", "shape", "mesh"))
def sample_batch(
    params: Any,
    keys: Array,
    noise: Array | None,
    cond: Conditioning,
    null: Conditioning | None,
    guidance: Array,
    *,
    module: Denoiser,
    process: Process,
    interval: tuple[float, float],
    shape: tuple[int, ...],
    mesh: Mesh | None,
) -> Array:
    """Latents [b *shape], one for each of keys [b]; null: what guidance leads away from, None for no guidance."""
    draw = partial(_draw, module, process, interval, shape)
    return shared(draw, mesh, (params, guidance), keys, noise, cond, null)


def _draw(
    module: Denoiser,
    process: Process,
    interval: tuple[float, float],
    shape: tuple[int, ...],
    params_and_guidance: tuple[Any, Array],
    keys: Array,
    noise: Array | None,
    cond: Conditioning,
    null: Conditioning | None,
) -> Array:
    """What one device does: the whole reverse process of its part of the batch."""
    plan, (params, guidance) = process.plan(), params_and_guidance
    published = isinstance(process.diffusion, Scheduler)

    def denoise(z: Array, t: Array, cond: Conditioning) -> Any:
        def network(z: Array, t: Array) -> Array:
            return apply(module, params, z, jnp.broadcast_to(t, z.shape[:1]).astype(jnp.float32), cond)

        # A network that we trained takes t as it is, a published one in its scheduler's units.
        return plan.denoise(network, None if published else lambda t: t)(z, t)

    guided = partial(denoise, cond=cond)
    if null is not None:
        guided = classifier_free(branches(denoise, cond, null), guidance, interval)
    start, steps_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(2))
    if noise is None:
        noise = samplers.normal(start, jnp.zeros((len(keys), *shape)))
    return samplers.sample(guided, plan.sampler, plan.schedule, plan.grid, plan.initial(noise), steps_keys)
