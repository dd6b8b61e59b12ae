"""What a denoiser may be told besides z and t, and the checks that every denoiser makes of it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from ldm_jax.errors import InputError

Time = float | int | Num[Array, ""] | Num[Array, "_"]
"""A time for all examples, or one for each."""


class Conditioning(NamedTuple):
    """Every part is optional; a network reads those that its config names and ignores none that it was built for."""

    label: Int[Array, "b"] | None = None
    """Class index; the network's num_classes stands for 'no class'."""
    context: Float[Array, "b l d"] | None = None
    """Tokens that cross-attention (or joint attention) sees."""
    context_mask: Bool[Array, "b l"] | None = None
    """True where a token counts."""
    pooled: Float[Array, "b d"] | None = None
    """One vector for the whole prompt."""
    time_ids: Float[Array, "b k"] | None = None
    """Sizes and crops (SDXL), or a noise level."""
    image: Float[Array, "b *space c"] | None = None
    """Concatenated to z along channels: masks and masked latents, or a low-resolution image."""
    guidance: Float[Array, "b"] | None = None
    """A scale that a distilled network is told in place of being guided (Meng et al. 2022, arXiv 2210.03142)."""
    interval: Float[Array, "b"] | None = None
    """The average over [t - interval, t] is asked for (`diffusion.average_velocity`); None: the output at t itself."""


def per_example(t: Time, examples: int) -> Float[Array, "b"]:
    """t in float32, one for each example; InputError where it is neither a scalar nor [examples]."""
    t = jnp.asarray(t, jnp.float32)
    if t.shape not in ((), (examples,)):
        raise InputError(f"t: shape {t.shape} must be () or ({examples},), one time for each example")
    return jnp.broadcast_to(t, (examples,))


def received(
    cond: Conditioning | None,
    network: str,
    *,
    label: bool = False,
    context: int = 0,
    pooled: int = 0,
    time_ids: bool = False,
    guidance: bool = False,
) -> Conditioning:
    """cond with every part that a network was built for; None is a Conditioning without parts.

    label, time_ids, guidance: whether the network embeds them. context, pooled: the features that it takes, 0 for none;
    negative for any. InputError names the part that is missing or has other features.
    """
    cond = Conditioning() if cond is None else cond
    if label and cond.label is None:
        raise InputError(f"cond.label: this {network} embeds labels; give one an example")
    if time_ids and cond.time_ids is None:
        raise InputError(f"cond.time_ids: this {network} embeds sizes and crops; give them for each example")
    if guidance and cond.guidance is None:
        raise InputError(f"cond.guidance: this {network} embeds a guidance scale; give one for each example")
    for field, features, what in (("context", context, "attends to tokens"), ("pooled", pooled, "embeds a vector")):
        value = getattr(cond, field)
        if features and value is None:
            raise InputError(f"cond.{field}: this {network} {what}; give them for each example")
        if features > 0 and value.shape[-1] != features:
            raise InputError(f"cond.{field}: has {value.shape[-1]} features, this {network} takes {features}")
    return cond


def joined(
    z: Float[Array, "b *space c"], image: Float[Array, "..."] | None, channels: int, network: str
) -> Float[Array, "b *space in"]:
    """z with cond.image's channels behind its own; InputError where they are not `channels` together."""
    more = 0 if image is None else image.shape[-1]
    if z.shape[-1] + more != channels:
        raise InputError(
            f"cond.image: z has {z.shape[-1]} channels and cond.image {more}; "
            f"together this {network} takes {channels} (in_channels)"
        )
    if image is None:
        return z
    if image.shape[:-1] != z.shape[:-1]:
        raise InputError(f"cond.image: shape {image.shape} must be that of z {z.shape} but for the channels")
    return jnp.concatenate([z, image.astype(z.dtype)], axis=-1)
