"""The autoencoder's loss: reconstruction, perception, regularisation and, with a discriminator, adversarial terms.

One function gives generator and discriminator their losses: each sees the other through stop_gradient, so a single
backward pass holds both gradients, and one step of one optimiser (see `first_stage_optimizer`) serves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from ldm_jax.models import LPIPS, Discriminator, VQAutoencoder, apply
from ldm_jax.stages.adversarial import (
    DECAY,
    balance,
    discriminator_loss,
    generator_loss,
    lecam,
    per_example,
    r1,
)
from ldm_jax.stages.autoencoder_config import AutoencoderLoss
from ldm_jax.stages.bottleneck import bottleneck, codebook_statistics, move
from ldm_jax.stages.equivariance import transformed
from ldm_jax.training.made_once import made_once
from ldm_jax.training.stage import Context, Loss, Metrics, Params

LAST_LAYER = ("decoder", "conv_out", "kernel")


def init_first_stage(
    module: Any,
    discriminator: Discriminator | None,
    config: AutoencoderLoss,
    key: Array,
    start: Params | None = None,
    rank: int = 2,
) -> Params:
    """{"autoencoder": ...} with "discriminator" and "statistics" where the loss has them.

    start: the autoencoder's parameters, where they are given and not drawn. rank: of the signals, 2 for images.
    """
    ae_key, disc_key = jax.random.split(key)
    own = (
        module.init(ae_key, *module.example_inputs(rank))["params"]
        if start is None
        else jax.tree.map(jnp.asarray, start)
    )
    params = {"autoencoder": own}
    statistics: dict[str, Any] = {}
    if isinstance(module, VQAutoencoder) and config.codebook == "ema":
        statistics["codebook"] = codebook_statistics(own["codebook"], config)
    if discriminator is not None:
        params["discriminator"] = discriminator.init(disc_key, *discriminator.example_inputs(rank))["params"]
        if config.lecam_weight:
            statistics["logits"] = {"real": jnp.zeros(()), "fake": jnp.zeros(())}
    return params | ({"statistics": statistics} if statistics else {})


@made_once
def autoencoder_loss(
    module: Any,
    config: AutoencoderLoss,
    perceptual: Sequence[LPIPS] = (),
    discriminator: Discriminator | None = None,
    axis_name: str | None = None,
) -> Loss:
    """The loss of batches {image [b *space c] in [-1, 1]}; the generator sees D from step adversarial_start on.

    params: as `init_first_stage` makes them. frozen: {"perceptual": params of each network} where there are any.
    loss: s x (reconstruction + perceptual_weight x LPIPS + the bottleneck's penalty) + adversarial_weight x (adaptive
    weight) x the generator's loss + the discriminator's; s is the number of an image's elements with reduction "sum",
    and LPIPS the sum over the networks.
    """

    def loss_fn(
        params: Params,
        batch: Mapping[str, Array],
        keys: Array,
        context: Context = Context(),  # noqa: B008
    ) -> tuple[Float[Array, "b"], Metrics]:
        frozen, x, own = context.frozen, batch["image"], params["autoencoder"]
        elements = x[0].size
        scale = float(elements) if config.reduction == "sum" else 1.0

        networks = list(zip(perceptual, frozen["perceptual"], strict=True)) if perceptual else []
        wanted = partial(_wanted, module, config, networks, scale)
        codes, penalty, metrics = bottleneck(
            module, params, apply(module, own, x, method="encode"), keys, config, elements, axis_name
        )
        if config.equivariance_weight:
            turned, target = transformed(codes, x, keys)
            out = apply(module, own, turned, method="decode_features")
            metrics["equivariance"] = wanted(out, target)[0] / scale
            penalty = penalty + config.equivariance_weight * metrics["equivariance"]
        adversarial = jnp.zeros(len(x))
        if discriminator is None:
            out = apply(module, own, codes, method="decode_features")
            total, terms = wanted(out, x)
        else:
            kernel = own
            for name in LAST_LAYER:
                kernel = kernel[name]

            def decode(kernel: Array) -> Array:
                return apply(module, with_last_layer(own, kernel), codes, method="decode_features")

            out, last_layer = jax.vjp(decode, kernel)
            seen = jnp.full(len(x), context.step >= config.adversarial_start, jnp.float32)
            total, adversarial, terms = _adversarial(
                params, out, x, seen, wanted, last_layer, module, discriminator, config, axis_name
            )
        metrics |= terms | {"psnr": shown_psnr(module.output(out), x)}
        return total + scale * penalty + adversarial, metrics

    return loss_fn


def _wanted(
    module: Any, config: AutoencoderLoss, perceptual: Sequence[tuple[LPIPS, Params]], scale: float, out: Array, x: Array
) -> tuple[Float[Array, "b"], Metrics]:
    """Reconstruction and perception of the decoder's output, times `scale`, and the numbers to record."""
    image = module.output(out)
    terms = {"reconstruction": reconstruction(config, out, image, x)}
    total = terms["reconstruction"]
    if perceptual:
        terms["lpips"] = jnp.stack([apply(network, params, image, x) for network, params in perceptual]).sum(axis=0)
        total = total + config.perceptual_weight * terms["lpips"]
    return scale * total, terms


def reconstruction(config: AutoencoderLoss, out: Array, image: Array, x: Array) -> Float[Array, "b"]:
    """The pixel term [b]; out: the decoder's output, logits for bce; image: what it shows."""
    if config.reconstruction == "l1":
        return per_example(jnp.abs(image - x))
    if config.reconstruction == "l2":
        return per_example(jnp.square(image - x))
    return per_example(optax.sigmoid_binary_cross_entropy(out, 0.5 * (x + 1.0)))


def shown_psnr(image: Float[Array, "b ... c"], x: Float[Array, "b ... c"]) -> Float[Array, "b"]:
    """PSNR [b] in dB of decoded signals, clipped, against x in [-1, 1]; at most 106, for JSON has no infinity."""
    error = per_example(jnp.square(jnp.clip(image, -1.0, 1.0) - x))
    return jnp.minimum(10.0 * jnp.log10(4.0 / jnp.maximum(error, 1e-12)), 106.0)


def with_last_layer(params: Params, kernel: Array) -> Params:
    """An autoencoder's parameters with another kernel in the decoder's last convolution."""
    decoder, conv, leaf = LAST_LAYER
    last = {**params[decoder][conv], leaf: kernel}
    return {**params, decoder: {**params[decoder], conv: last}}


def _adversarial(
    params: Params,
    out: Array,
    x: Array,
    seen: Float[Array, "b"],
    wanted: Any,
    last_layer: Any,
    module: Any,
    discriminator: Discriminator,
    config: AutoencoderLoss,
    axis_name: str | None,
) -> tuple[Float[Array, "b"], Float[Array, "b"], Metrics]:
    """The generator's loss on the decoder's output, balanced; the discriminator's; the numbers to record."""

    def judge(p: Params, images: Array) -> Array:
        return apply(discriminator, p, images, axis_name=axis_name)

    fixed, still = lax.stop_gradient(params["discriminator"]), lax.stop_gradient(out)

    def fooled(out: Array) -> tuple[Array, Float[Array, "b"]]:
        each = generator_loss(config.adversarial, judge(fixed, module.output(out)))
        return each.sum(), each

    def total(out: Array) -> tuple[Array, Any]:
        each, terms = wanted(out, x)
        return each.sum(), (each, terms)

    slope, (each, terms) = jax.grad(total, has_aux=True)(still)
    adversarial_slope, adversarial = jax.grad(fooled, has_aux=True)(still)
    weight = jnp.asarray(config.adversarial_weight)
    if config.adaptive:
        weight = weight * balance(lambda g: last_layer(g)[0], slope, adversarial_slope, axis_name)
    seen_weight = weight * seen
    like = (-1,) + (1,) * (out.ndim - 1)
    # The value is the loss, the gradient what the two slopes make it: this avoids a second backward pass.
    gradient = lax.stop_gradient(slope + seen_weight.reshape(like) * adversarial_slope)
    path = (gradient * (out - still)).reshape(len(out), -1).sum(axis=1)
    generator = lax.stop_gradient(each + seen_weight * adversarial) + path

    discriminated, own = _discriminator_terms(params, judge, x, module.output(still), config)
    weighted = {"adversarial": adversarial, "adversarial_weight": jnp.broadcast_to(weight, adversarial.shape)}
    return generator, discriminated, terms | weighted | own


def _discriminator_terms(
    params: Params, judge: Any, x: Array, fake_image: Array, config: AutoencoderLoss
) -> tuple[Float[Array, "b"], Metrics]:
    """The discriminator's loss with its regularisers, and the numbers to record; judge(params, images) -> logits."""
    real = judge(params["discriminator"], x)
    fake = judge(params["discriminator"], fake_image)
    discriminated = discriminator_loss(config.adversarial, real, fake)
    logits = {"logits_real": per_example(real), "logits_fake": per_example(fake)}
    terms: Metrics = {"discriminator": discriminated, **logits}
    if config.lecam_weight:
        averages = params["statistics"]["logits"]
        anchors = lax.stop_gradient((averages["real"], averages["fake"]))
        terms["lecam"] = lecam(real, fake, *anchors)
        discriminated = discriminated + config.lecam_weight * terms["lecam"]
        for side, logits in (("real", real), ("fake", fake)):
            old = averages[side]
            discriminated = discriminated + move(old, DECAY * old + (1.0 - DECAY) * logits.mean())
    if config.r1_weight:
        terms["r1"] = r1(lambda images: judge(params["discriminator"], images), x)
        discriminated = discriminated + config.r1_weight * terms["r1"]
    return discriminated, terms
