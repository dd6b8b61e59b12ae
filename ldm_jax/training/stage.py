"""What is trained, as the loop sees it: a Stage, its settings, its loss and what that may read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from ldm_jax.errors import InputError
from ldm_jax.training.averages import Profiles
from ldm_jax.training.decays import CosineDecay, Decay
from ldm_jax.training.optimizers import AdamW, Optimizer

Params: TypeAlias = Any
Metrics: TypeAlias = dict[str, Array]
Batch: TypeAlias = Mapping[str, Any]


class Context(NamedTuple):
    """What a loss may see besides the parameters that it is differentiated by."""

    step: Any = 0
    """Optimiser steps done."""
    ema: Params = None
    """The averaged parameters."""
    frozen: Any = None
    """Parameters that nobody trains: a perceptual network, a teacher, a base model under adapters."""


@runtime_checkable
class Loss(Protocol):
    """One loss an example, no mean anywhere."""

    def __call__(
        self, params: Params, batch: Batch, keys: Array, context: Context, /
    ) -> tuple[Float[Array, "b"], Metrics]:
        """(loss [b], metrics of [b]) of a batch of arrays [b ...] with one key an example, keys [b]."""
        ...


def at_least(section: str, config: Any, **bounds: int | float) -> None:
    """InputError where a field of `config` is below its bound."""
    for field, low in bounds.items():
        if not getattr(config, field) >= low:
            raise InputError(f"{section}.{field}: {getattr(config, field)} must be at least {low}")


@dataclasses.dataclass(frozen=True)
class Training:
    """One stage's optimisation: linear warm-up, clipping by global norm, an average of the parameters."""

    label: ClassVar[str] = "training"
    """The stage's name: of its folder, of its lines in metrics.jsonl, of its options."""

    steps: int = 10_000
    """Optimiser steps."""
    optimizer: Optimizer = AdamW()
    """The rule that turns gradients into updates."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup: int = 100
    """Steps of linear warm-up."""
    decay: Decay = CosineDecay()
    """How the learning rate falls after the warm-up."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 for no clipping."""
    ema: float = 0.999
    """Decay of the averaged parameters, warmed up as (1 + step) / (10 + step)."""
    accumulate: int = 1
    """Micro-batches per step."""
    patience: int = 10
    """Steps in a row with a loss or gradient that is not finite, which are skipped, before the run stops."""
    retreats: int = 0
    """How often the run then goes back to the last good checkpoint, at half the learning rate, instead of stopping."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the arithmetic in every network of the stage; none: as each network's own config says."""
    remat: bool | None = None
    """Recompute activations in the backward pass, in every network of the stage; none: as each config says."""
    scan: bool | None = None
    """lax.scan over the blocks of transformers: compiles faster; none: as each config says."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 1000
    """Steps between pictures and evaluations."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        where = f"stages.{self.label}"
        positive = ("steps", "accumulate", "patience", "log_every", "sample_every", "checkpoint_every")
        at_least(where, self, **dict.fromkeys(positive, 1), retreats=0, warmup=0, learning_rate=0.0, clip=0.0)
        if not 0.0 <= self.ema < 1.0:
            raise InputError(f"{where}.ema: {self.ema} must be at least 0 and less than 1")

    @property
    def rate(self) -> optax.Schedule:
        """step -> learning rate."""
        return self.decay.schedule(self.learning_rate, min(self.warmup, self.steps - 1), self.steps)

    @property
    def profiles(self) -> Profiles | None:
        """Averages that are tracked beside `ema`."""
        return None

    def clipped(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimiser after clipping by global norm; its state is the same with and without."""
        clip = optax.clip_by_global_norm(self.clip) if self.clip else optax.identity()
        return optax.chain(clip, optimizer)

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimiser of these settings, clipping included."""
        return self.clipped(self.optimizer.make(self.rate))


class Evaluation(NamedTuple):
    """What a stage shows of itself while it trains."""

    numbers: Mapping[str, float] = {}
    """Named test_* where they are of data that training does not see, otherwise train_*."""
    pictures: UInt8[np.ndarray, "n h w c"] | None = None
    columns: int = 8
    """Pictures to a row."""


@runtime_checkable
class Stage(Protocol):
    """All that the loop, checkpoints, resuming, signals and devices know of what is trained."""

    @property
    def training(self) -> Training:
        """Steps, rate, rhythms."""
        ...

    @property
    def batch_size(self) -> int:
        """Examples a step over all devices, for the rates that are recorded."""
        ...

    @property
    def loss(self) -> Loss: ...
    @property
    def optimizer(self) -> optax.GradientTransformation:
        """What makes updates of gradients."""
        ...

    @property
    def frozen(self) -> Any:
        """Given to the loss as `context.frozen`, whole on every device; None for nothing."""
        ...

    @property
    def inputs(self) -> Mapping[str, str]:
        """Digests of what it builds on, by name; a checkpoint built on others is refused."""
        ...

    @property
    def given(self) -> Params:
        """Host arrays to begin with, handed to `init`; None where all is new."""
        ...

    def init(self, key: Array, given: Params, /) -> Params:
        """The parameters to begin with; called within jit."""
        ...

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """(k, batch k) for start <= k < stop, host arrays [b ...] with "index", the place in the global batch."""
        ...

    def examples(self, k: int) -> Int[np.ndarray, "b"]:
        """Which examples of the training set this process's part of batch k holds."""
        ...

    def evaluate(self, step: int, params: Params) -> Evaluation:
        """Numbers and pictures from the averaged parameters."""
        ...
