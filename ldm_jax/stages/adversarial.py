"""Adversarial training: the discriminator's losses, the generator's, their regularisers and their balance.

Everything is per example [b]; logits are maps [b ... 1], averaged over their positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Kind = Literal["hinge", "non_saturating"]
Logits = Float[Array, "b ... 1"]
PerExample = Float[Array, "b"]

DECAY = 0.99
"""Of the averages of logits that LeCam anchors to, per step."""


def per_example(x: Float[Array, "b ..."]) -> PerExample:
    """The mean over all axes but the first."""
    return x.reshape(x.shape[0], -1).mean(axis=1)


def generator_loss(kind: Kind, fake: Logits) -> PerExample:
    """Hinge: -D(fake) (Lim & Ye 2017, arXiv 1705.02894). Otherwise softplus(-D(fake)) (arXiv 1406.2661, section 3)."""
    return per_example(-fake if kind == "hinge" else jax.nn.softplus(-fake))


def discriminator_loss(kind: Kind, real: Logits, fake: Logits) -> PerExample:
    """Half of m(D(real)) + m(-D(fake)), the half as in LDM; m(x) is relu(1 - x) (hinge) or softplus(-x)."""
    margin = (lambda x: jax.nn.relu(1.0 - x)) if kind == "hinge" else (lambda x: jax.nn.softplus(-x))
    return 0.5 * (per_example(margin(real)) + per_example(margin(-fake)))


def lecam(real: Logits, fake: Logits, real_average: Array, fake_average: Array) -> PerExample:
    """Pulls logits to the other side's moving average (Tseng et al. 2021, arXiv 2104.03310, section 3.1).

    One-sided, as in the authors' code: a real logit pays above the fakes' average, a fake one below the reals'.
    """
    above = jnp.square(jax.nn.relu(real - fake_average))
    below = jnp.square(jax.nn.relu(real_average - fake))
    return per_example(above) + per_example(below)


def r1(logits: Callable[[Array], Logits], real: Float[Array, "b ..."]) -> PerExample:
    """Half the squared gradient norm of D at real images (Mescheder et al. 2018, arXiv 1801.04406, section 4.1)."""
    gradient = jax.grad(lambda x: per_example(logits(x)).sum())(real)
    return 0.5 * jnp.square(gradient).reshape(len(real), -1).sum(axis=1)


def balance(
    last_layer: Callable[[Array], Array], wanted: Array, adversarial: Array, axis_name: str | None
) -> Float[Array, ""]:
    """The adaptive weight |reconstruction gradient| / |adversarial gradient| (VQGAN, arXiv 2012.09841, eq. 7).

    last_layer: cotangents of the decoder's output to gradients of its last kernel. wanted, adversarial: the two
    losses' gradients with respect to the decoder's output. Over all devices' examples; at most 1e4.
    """
    norms = []
    for cotangent in (wanted, adversarial):
        gradient = last_layer(cotangent)
        if axis_name is not None:
            gradient = lax.pmean(gradient, axis_name)
        norms.append(jnp.sqrt(jnp.square(gradient).sum()))
    return lax.stop_gradient(jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, 1e4))
