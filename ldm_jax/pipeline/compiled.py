"""What a model computes, compiled: a batch encoded, decoded or drawn, on one device or shared by several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from ldm_jax.diffusion import grids, samplers
from ldm_jax.diffusion.guidance import branches
from ldm_jax.diffusion.guidance_choices import GuidanceChoice
from ldm_jax.diffusion.samplers import Euler
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
from ldm_jax.pipeline.recipe import Recipe
from ldm_jax.seeds import folded
from ldm_jax.tasks import Task

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


def rows(tree: Any, place: np.ndarray) -> Any:
    """Of every array [m ...] the rows `place`, counted round and round."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[place % len(leaf)], tree)


def expand_channels(per_channel: Array, like: Array) -> Array:
    """[c] with leading axes added until it broadcasts against like [b *space c]."""
    return per_channel.reshape((1,) * (like.ndim - 1) + (-1,))


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
    """Signals [b *space c] to normalised latents: the posterior's mean, or with a key a sample of it."""

    def encode(params: Any, x: Array) -> Any:
        return memory.apply(partial(apply, module, params, method="encode"), x)

    z = shared(encode, mesh, params, x)
    if isinstance(z, Posterior):
        posterior, z = z, z.mean
        if key is not None:
            z = posterior.sample(samplers.normal(samplers.example_keys(key, len(x)), z))
    return (z - expand_channels(mean, z)) / expand_channels(std, z)


@partial(jax.jit, static_argnames=("module", "memory", "mesh"))
def decode_batch(
    module: FirstStage, params: Any, mean: Array, std: Array, z: Array, memory: Memory, mesh: Mesh | None
) -> Array:
    """Normalised latents [b *space c] to signals [b *space c], not clipped."""

    def decode(params: Any, raw: Array) -> Array:
        return memory.apply(partial(apply, module, params, method="decode"), raw)

    return shared(decode, mesh, params, z * expand_channels(std, z) + expand_channels(mean, z))


@partial(jax.jit, static_argnames=("module", "recipe", "rule", "task", "shape", "mesh"))
def sample_batch(
    params: Any,
    keys: Array,
    noise: Array | None,
    cond: Conditioning,
    null: Conditioning | None,
    guidance: Array,
    arrays: Mapping[str, Array],
    *,
    module: Denoiser,
    recipe: Recipe,
    rule: GuidanceChoice,
    task: Task,
    shape: tuple[int, ...],
    mesh: Mesh | None,
) -> Array:
    """Latents [b *shape], one for each of keys [b]; null: what guidance leads away from, None for no guidance.

    guidance: scales [b]. arrays [b ...]: what the task takes besides noise.
    """
    draw = partial(_draw, module, recipe, rule, task, shape)
    return shared(draw, mesh, params, keys, noise, cond, null, guidance, arrays)


def denoiser(
    module: Denoiser,
    recipe: Recipe,
    rule: GuidanceChoice,
    params: Any,
    cond: Conditioning,
    null: Conditioning | None,
    guidance: Any,
) -> Any:
    """denoise(z, t) -> Estimate, guided where null is not None.

    A network of average velocities is asked for that of the step that begins at t where steps are Euler's, which it
    makes exact, and for the velocity at t by every other sampler.
    """
    plan = recipe.plan()
    average = getattr(module.config, "interval", False) and recipe.sampler == Euler(variable="flow")

    def denoise(z: Array, t: Array, cond: Conditioning) -> Any:
        if average:
            interval = t - grids.following(jnp.asarray(plan.grid, t.dtype), t)
            cond = cond._replace(interval=jnp.broadcast_to(interval, z.shape[:1]))

        def network(z: Array, t: Array) -> Array:
            return apply(module, params, z, jnp.broadcast_to(t, z.shape[:1]).astype(jnp.float32), cond)

        return recipe.denoise(plan, network)(z, t)

    if null is None:
        return partial(denoise, cond=cond)
    return rule.make(branches(denoise, cond, null), plan.schedule, guidance)


def _draw(
    module: Denoiser,
    recipe: Recipe,
    rule: GuidanceChoice,
    task: Task,
    shape: tuple[int, ...],
    params: Any,
    keys: Array,
    noise: Array | None,
    cond: Conditioning,
    null: Conditioning | None,
    guidance: Array,
    arrays: Mapping[str, Array],
) -> Array:
    """What one device does: the whole reverse process of its part of the batch."""
    plan = recipe.plan()
    guided = denoiser(module, recipe, rule, params, cond, null, guidance)
    noise = initial_noise(keys, shape) if noise is None else noise
    return task.draw(guided, plan, noise, arrays, folded(keys, 1))


def initial_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal [b *shape], of each of keys [b] its own; the steps' noise comes from other folds of them."""
    return samplers.normal(folded(keys, 0), jnp.zeros((len(keys), *shape)))


@partial(jax.jit, static_argnames=("module", "process"))
def class_errors(
    params: Any,
    z: Array,
    keys: Array,
    labels: Array,
    cond: Conditioning,
    times: Array,
    *,
    module: Denoiser,
    process: Any,
) -> Array:
    """Root mean square errors of eps [b], summed over times [s], of latents [b *space c] that are told labels [b].

    Of eps, as Li et al. 2023 have them, whatever the network predicts: in terms of the flow the late times, at which
    classes differ most and tell least, would drown the others. Their squares would let the early times, at which all
    errors are large, drown the late ones.

    keys [b]: of the noise, the same for each time and label whose key is the same.
    """

    def one(total: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        t, number = at
        eps = samplers.normal(folded(keys, number), z)
        t = jnp.broadcast_to(t, z.shape[:1])
        z_t = process.add_noise(z, eps, t)
        told = cond._replace(label=labels)
        found = process.denoise(lambda z, t: apply(module, params, z, t, told))(z_t, t)
        return total + jnp.sqrt(jnp.square(found.eps - eps).reshape(len(z), -1).mean(axis=1)), None

    numbers = jnp.arange(len(times), dtype=jnp.uint32)
    return jax.lax.scan(one, jnp.zeros(len(z)), (times, numbers))[0]


@partial(jax.jit, static_argnames=("module", "process", "layer"))
def denoiser_features(
    params: Any, z: Array, keys: Array, cond: Conditioning, t: Array, *, module: Denoiser, process: Any, layer: str
) -> Array:
    """[b d]: the mean over space of a layer's output, of latents [b *space c] at time t, noise from keys [b]."""
    t = jnp.broadcast_to(t, z.shape[:1])
    z_t = process.add_noise(z, samplers.normal(keys, z), t)
    _, found = module.apply(
        {"params": params},
        process.network_input(z_t, t),
        process.network_time(t),
        cond,
        capture_intermediates=lambda part, _: part.path == (layer,),
        mutable=["intermediates"],
    )
    out = jax.tree.leaves(found)[0]
    return out.reshape(len(out), -1, out.shape[-1]).astype(jnp.float32).mean(axis=1)
