"""The first stage as the loop sees it: an autoencoder, with a discriminator where its loss has one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ldm_jax.data import Loader, to_uint8
from ldm_jax.images import is_picture
from ldm_jax.models import LPIPS, Discriminator, QuantizedAutoencoder, apply
from ldm_jax.stages.autoencoder_config import AutoencoderLoss, AutoencoderTraining
from ldm_jax.stages.autoencoder_loss import autoencoder_loss, init_first_stage, shown_psnr
from ldm_jax.stages.bottleneck import code_frequencies, perplexity
from ldm_jax.stages.held_out import HeldOut
from ldm_jax.training.made_once import made_once
from ldm_jax.training.stage import Batch, Evaluation, Loss, Params, Training

PAIRS = 32
"""Images that are shown beside their reconstructions."""


@made_once
def first_stage_optimizer(training: Training, codebook: str, trains: str) -> optax.GradientTransformation:
    """The autoencoder's optimiser; for a discriminator Adam at the same rates with betas 0.5 and 0.9, as in LDM.

    Averages (params["statistics"], and the codebook where it is "ema") move by their whole gradient, which is how the
    loss tells where they go. trains "decoder": encoder and codebook stay.
    """
    rules: dict[Hashable, optax.GradientTransformation] = {
        "autoencoder": training.make_optimizer(),
        "discriminator": training.clipped(optax.adam(training.rate, b1=0.5, b2=0.9)),
        "statistics": optax.sgd(1.0),
        "fixed": optax.set_to_zero(),
    }

    def rule(path: Any, _: Any) -> str:
        section, part = path[0].key, path[1].key
        if section != "autoencoder":
            return section
        if trains == "decoder" and part not in ("decoder", "post_quant"):
            return "fixed"
        return "statistics" if part == "codebook" and codebook == "ema" else "autoencoder"

    return optax.partition(rules, lambda params: jax.tree_util.tree_map_with_path(rule, params))


@made_once
def _beginning(
    module: Any, discriminator: Discriminator | None, loss: AutoencoderLoss, rank: int
) -> Callable[[Array, Params], Params]:
    def init(key: Array, given: Params) -> Params:
        start = None if given is None else given["autoencoder"]
        return init_first_stage(module, discriminator, loss, key, start, rank)

    return init


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(module: Any, params: Params, x: Array) -> tuple[Array, Array | None]:
    """Reconstructions of x, and how often each code is used where there are codes."""
    signal, encoded = apply(module, params, x)
    if not isinstance(module, QuantizedAutoencoder):
        return signal, None
    indices = apply(module, params, encoded, method="indices")
    return signal, code_frequencies(indices, module.config.codebook_size)


class AutoencoderStage:
    """See `Stage`; the parameters are {"autoencoder", "discriminator", "statistics"}, the latter two where needed."""

    def __init__(
        self,
        training: AutoencoderTraining,
        module: Any,
        discriminator: Discriminator | None,
        perceptual: Sequence[tuple[LPIPS, Any]],
        loader: Loader,
        judged: HeldOut,
        *,
        axis_name: str | None,
        given: Params = None,
        inputs: Mapping[str, str] | None = None,
    ):
        """given: the autoencoder's parameters to begin with; None: new ones."""
        self.training, self.module, self.discriminator = training, module, discriminator
        self.loader, self.judged, self.inputs = loader, judged, dict(inputs or {})
        self.batch_size = loader.batch_size
        networks = tuple(network for network, _ in perceptual)
        self.loss: Loss = autoencoder_loss(module, training.loss, networks, discriminator, axis_name)
        self.frozen = {"perceptual": [params for _, params in perceptual]} if perceptual else None
        self.optimizer = first_stage_optimizer(training, training.loss.codebook, training.trains)
        self.given = None if given is None else {"autoencoder": given}
        self.init = _beginning(module, discriminator, training.loss, len(loader.shape) - 1)

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        for k, batch in self.loader.iterate(start, stop):
            yield k, {"image": batch["image"], "index": batch["index"]}

    def examples(self, k: int) -> np.ndarray:
        return self.loader.examples(k)

    @functools.cached_property
    def _shown(self) -> np.ndarray:
        return self.judged.images()

    def evaluate(self, step: int, params: Params) -> Evaluation:
        """PSNR of examples beside their reconstructions, and how many codes are used."""
        shown, prefix = self._shown, self.judged.prefix
        drawn, frequencies = _reconstruct(self.module, params["autoencoder"], shown)
        numbers = {f"{prefix}psnr": float(shown_psnr(drawn, jnp.asarray(shown)).mean())}
        if frequencies is not None:
            numbers[f"{prefix}codes_used"] = float((frequencies > 0).mean())
            numbers[f"{prefix}perplexity"] = float(perplexity(frequencies))
        if not is_picture(shown.shape[1:]):
            return Evaluation(numbers)
        output = np.asarray(drawn)
        pairs = np.stack([shown[:PAIRS], output[:PAIRS]], axis=1).reshape(-1, *output.shape[1:])
        return Evaluation(numbers, to_uint8(pairs), 8)
