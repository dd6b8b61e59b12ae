"""The optimiser of a stage, from its config."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
import optax

from ldm_jax.config import TrainingConfig


def learning_rate(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up to the peak, then cosine decay to final_learning_rate x peak at the last step."""
    warmup = min(config.warmup, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (warmup + 1),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=config.steps,
        end_value=config.final_learning_rate * config.learning_rate,
    )


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) after clipping by global norm; decay on matrices only."""
    adamw = optax.adamw(
        learning_rate(config),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw) if config.clip else adamw


def make_first_stage_optimizer(config: TrainingConfig, codebook: str, trains: str) -> optax.GradientTransformation:
    """The autoencoder's AdamW; for a discriminator Adam at the same rates with betas 0.5 and 0.9, as in LDM.

    Averages (params["statistics"], and the codebook where it is "ema") move by their whole gradient, which is how the
    loss tells where they go. trains "decoder": encoder and codebook stay.
    """
    adversary = optax.adam(learning_rate(config), b1=0.5, b2=0.9)
    if config.clip:
        adversary = optax.chain(optax.clip_by_global_norm(config.clip), adversary)
    rules: dict[Hashable, optax.GradientTransformation] = {
        "autoencoder": make_optimizer(config),
        "discriminator": adversary,
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
