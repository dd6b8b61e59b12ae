"""The optimiser of a stage, from its config."""

from __future__ import annotations

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
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw) if config.clip else adamw
