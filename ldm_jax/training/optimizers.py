"""The optimisers that a stage may be trained with: each is a frozen dataclass of optax's own arguments.

To add one, add its line to RULES; its fields, its JSON, its options on the command line and its test follow from that.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union, runtime_checkable

import jax
import optax

from ldm_jax.errors import InputError


@runtime_checkable
class OptimizerRule(Protocol):
    """A kind of optimiser with its settings."""

    def make(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """The transformation at learning rates `rate`; weight decay acts on matrices only."""
        ...


def matrices(params: Any) -> Any:
    """Which parameters weight decay acts on: those of two axes or more."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


APART = {"modulation", "embedding"}
"""Layers of a block that see a row per example and not one per token: AdamW's."""


def hidden(params: Any) -> Any:
    """The axes that Muon takes as rows and columns of each weight within a network's blocks, None for all others.

    What is left to AdamW: biases, scales, embeddings, first and last layers, adapters. A convolution's kernel is a
    matrix with a row for each input it sees, a stack of blocks (`lax.scan`) one matrix for each of them.
    """

    def axes(path: tuple[Any, ...], leaf: Any) -> Any:
        *outer, name = (str(getattr(key, "key", key)) for key in path)
        if name != "kernel" or APART & set(outer) or not re.search("block|attention|transformer", "/".join(outer)):
            return None
        rows = (1,) if leaf.ndim == 3 else tuple(range(leaf.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(rows, leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def muon(
    rate: optax.Schedule,
    momentum: float,
    rms: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    mask: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """optax's Muon for `hidden` weights and its Adam for the others, with one decay of weights for both."""
    both = optax.contrib.muon(
        -1.0,
        beta=momentum,
        consistent_rms=rms,
        adam_b1=beta1,
        adam_b2=beta2,
        muon_weight_dimension_numbers=hidden,
    )
    return optax.chain(both, optax.add_decayed_weights(weight_decay, mask), optax.scale_by_learning_rate(rate))


def rule(name: str, transform: Callable[..., Any], doc: str, **fields: tuple[str, float, str]) -> type:
    """A frozen dataclass `name` of fields {field: (optax's argument, default, text)}, checked to be 0 or more."""
    known = inspect.signature(transform).parameters
    mask = next((word for word in ("mask", "weight_decay_mask") if word in known), None)

    def check(self: Any) -> None:
        for field in fields:
            if getattr(self, field) < 0.0:
                raise InputError(f"optimizer.{field}: {getattr(self, field)} must be at least 0")

    def make(self: Any, rate: optax.Schedule) -> optax.GradientTransformation:
        keywords = {argument: getattr(self, field) for field, (argument, _, _) in fields.items()}
        return transform(rate, **keywords, **({mask: matrices} if mask else {}))

    made = [
        (field, float, dataclasses.field(default=default, metadata={"doc": text}))
        for field, (_, default, text) in fields.items()
    ]
    body = {"__post_init__": check, "make": make, "__doc__": doc, "__module__": __name__}
    return dataclasses.make_dataclass(name, made, namespace=body, frozen=True)


FIRST = "Decay of the first moment."
SECOND = "Decay of the second moment."
DECAY = ("weight_decay", 0.0, "Decoupled decay, on matrices only.")
ADAMW = {
    "beta1": ("b1", 0.9, FIRST),
    "beta2": ("b2", 0.99, SECOND),
    "epsilon": ("eps", 1e-8, "Added to the root of the second moment."),
    "weight_decay": DECAY,
}
LION = {
    "beta1": ("b1", 0.9, "Share of the momentum in the update."),
    "beta2": ("b2", 0.99, "Decay of the momentum."),
    "weight_decay": DECAY,
}
ADAFACTOR = {
    "decay_rate": ("decay_rate", 0.8, "Exponent of the second moments' decay."),
    "weight_decay": ("weight_decay_rate", *DECAY[1:]),
}
MUON = {
    "momentum": ("momentum", 0.95, "Decay of the momentum."),
    "rms": ("rms", 0.2, "Root mean square of an update at rate 1; at 0.2 AdamW's rates go."),
    "beta1": ("beta1", 0.9, FIRST),
    "beta2": ("beta2", 0.99, SECOND),
    "weight_decay": DECAY,
}
SGD_FIELDS = {"momentum": ("momentum", 0.9, "Decay of the momentum.")}
RULES: tuple[type, ...] = (
    rule("AdamW", optax.adamw, "Loshchilov & Hutter 2019 (arXiv 1711.05101).", **ADAMW),
    rule("Lion", optax.lion, "Chen et al. 2023 (arXiv 2302.06675); rates a third to a tenth of AdamW's.", **LION),
    rule(
        "Adafactor", optax.adafactor, "Shazeer & Stern 2018 (arXiv 1804.04235): factored second moments.", **ADAFACTOR
    ),
    rule(
        "Muon",
        muon,
        "Jordan et al. 2024, Liu et al. 2025 (arXiv 2502.16982): orthogonalised momentum for the blocks' weights, for"
        " the rest Adam with Nesterov's momentum.",
        **MUON,
    ),
    rule("SGD", optax.sgd, "Stochastic gradient descent with momentum.", **SGD_FIELDS),
)
AdamW, Lion, Adafactor, Muon, SGD = RULES

if TYPE_CHECKING:
    Optimizer: TypeAlias = OptimizerRule
else:
    Optimizer = Union[RULES]  # noqa: UP007 (made of a tuple)
