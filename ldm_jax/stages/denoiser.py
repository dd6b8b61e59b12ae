"""The second stage as the loop sees it: a denoiser, new or given, trained whole or in part."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ldm_jax import seeds
from ldm_jax.cache import ConditionCache, Latents, encode_moments, mean_and_logvar, place_of
from ldm_jax.cache.conditions import read_condition
from ldm_jax.cache.place import Place
from ldm_jax.conditions import Condition, LabelCondition, TextCondition
from ldm_jax.images import is_picture
from ldm_jax.models import stack_blocks, unstack_blocks
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.pipeline.asking import told_of
from ldm_jax.stages.computing import computed
from ldm_jax.stages.denoiser_config import DenoiserTraining
from ldm_jax.stages.denoiser_loss import Weights, denoiser_loss, own_weights
from ldm_jax.stages.held_out import HeldOut
from ldm_jax.stages.prior import Cached, mixed_batch, own_rows
from ldm_jax.training.made_once import made_once
from ldm_jax.training.prefetch import ahead
from ldm_jax.training.stage import Batch, Context, Evaluation, Loss, Params

ATTENTION = ("attention", "qkv", "query", "key", "value", "attn")
"""Parts of the names of attention's layers, in all denoisers."""


def is_attention(path: Any) -> bool:
    """Whether a parameter belongs to attention, by the names on the way to it."""
    return any(word in str(getattr(part, "key", part)) for part in path for word in ATTENTION)


@made_once
def part_optimizer(training: DenoiserTraining) -> optax.GradientTransformation:
    """The optimiser; what is not trained gets no update and no state."""
    optimizer = training.make_optimizer()
    if training.trains == "all":
        return optimizer

    def rule(path: Any, _: Any) -> str:
        return "trained" if path[0].key != "denoiser" or is_attention(path[1:]) else "fixed"

    rules: dict[Hashable, optax.GradientTransformation] = {"trained": optimizer, "fixed": optax.set_to_zero()}
    return optax.partition(rules, lambda params: jax.tree_util.tree_map_with_path(rule, params))


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """Which rows of the global batches are this process's."""

    seed: int
    process_index: int = 0
    process_count: int = 1


@made_once
def _judging(loss: Loss) -> Any:
    @jax.jit
    def judge(params: Params, batch: Batch, keys: Array, frozen: Any) -> Array:
        return loss(params, batch, keys, Context(frozen=frozen))[0].mean()

    return judge


class DenoiserStage:
    """See `Stage`; the parameters are {"denoiser": ..., "conditions": {name: ...}}."""

    room: ClassVar[str] = "model"
    """The folder in a run's that `save` writes."""

    def __init__(
        self,
        training: DenoiserTraining,
        model: LatentDiffusion,
        module: Any,
        latents: Latents,
        told: Mapping[str, ConditionCache],
        judged: HeldOut,
        batch_size: int,
        shuffle: Shuffle,
        key: Array,
        *,
        seed: int = 0,
        given: Params = None,
        inputs: Mapping[str, str] | None = None,
        prior: Cached | None = None,
    ):
        """model: all parts but the denoiser; module: the denoiser as it is trained; given: its parameters at first.

        key: of the times and noise at which examples are judged; seed: of the pictures. prior: the second source.
        """
        self.training, self.model, self.saved = training, model, module
        self.module = computed(module, training, scan=True)
        self.scanned = getattr(self.module.config, "scan", False)
        self.own, self.prior = Cached(latents, told, shuffle.seed), prior
        self.judged, self.shuffle, self.key, self.seed = judged, shuffle, key, seed
        self.batch_size, self.inputs = batch_size, dict(inputs or {})
        self.optimizer, self.frozen = self._optimizer(), None
        self.given = stack_blocks(given) if given is not None and self.scanned else given
        self.loss: Loss = denoiser_loss(
            self.module,
            model.process,
            tuple(map(float, model.latent_mean)),
            tuple(map(float, model.latent_std)),
            model.conditions,
            weights=self._weights(),
            count=batch_size,
            objective=self.training.objective,
            posterior=self.training.posterior,
        )

    def _optimizer(self) -> optax.GradientTransformation:
        return part_optimizer(self.training)

    def _weights(self) -> Weights:
        return own_weights

    def init(self, key: Array, given: Params) -> Params:
        network = self.module.init(key, *self._example())["params"] if given is None else given
        return {"denoiser": network, "conditions": self._init_conditions(key)}

    def _init_conditions(self, key: Array) -> Params:
        found = {c.name: c.init(jax.random.fold_in(key, 1 + i)) for i, c in enumerate(self.model.conditions)}
        return {name: params for name, params in found.items() if params}

    def _example(self) -> tuple[Any, ...]:
        return self.module.example_inputs(len(self.model.shape) - 1)

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        return ahead((k, self._batch(k)) for k in range(start, stop))

    def examples(self, k: int) -> np.ndarray:
        return self._place(k).examples

    def _place(self, k: int) -> Place:
        """Where the data's rows of a batch are; beside a prior all processes' rows are counted."""
        n, where = len(self.own.latents), dataclasses.asdict(self.shuffle)
        if self.training.prior is not None:
            return place_of(n, own_rows(self.batch_size, self.training.prior), self.shuffle.seed, k)
        return place_of(n, self.batch_size, step=k, **where)

    def _batch(self, k: int) -> Batch:
        settings, shuffle = self.training.prior, self.shuffle
        if self.prior is not None and settings is not None:
            where = shuffle.process_index, shuffle.process_count
            return mixed_batch(self.own, self.prior, settings, self.batch_size, k, *where)
        return self.own.batch(self._place(k))

    @functools.cached_property
    def _judge(self) -> Any:
        return _judging(self.loss)

    @functools.cached_property
    def _judged(self) -> tuple[Batch, Array]:
        """A batch that training does not see, and keys: the same times and noise whenever it is looked at."""
        images = self.judged.images()
        moments = encode_moments(self.model.autoencoder, self.model.autoencoder_params, jnp.asarray(images))
        mean, logvar = mean_and_logvar(np.asarray(moments), len(self.model.latent_mean))
        conditions = {c.name: read_condition(c, self.judged.loader) for c in self.model.conditions}
        index = np.arange(len(images), dtype=np.int32)
        batch = {"mean": mean, "logvar": logvar, "index": index, "conditions": conditions}
        return jax.tree.map(jnp.asarray, batch), jax.random.split(self.key, len(images))

    def evaluate(self, step: int, params: Params) -> Evaluation:
        """The loss at the same times and noise each time; samples, of all classes in turn or told what examples are."""
        numbers = {f"{self.judged.prefix}loss": float(self._judge(params, *self._judged, self.frozen))}
        model = self.trained(params)
        if not is_picture(model.shape):
            return Evaluation(numbers)
        columns = min(model.num_classes or 8, 16)
        num = columns * min(max(80 // columns, 2), 10)
        key = seeds.key(self.seed)
        if all(isinstance(condition, LabelCondition) for condition in model.conditions):
            return Evaluation(numbers, model.sample(key, num=num), columns)
        return Evaluation(numbers, self._told(model, key), 8)

    def _told(self, model: LatentDiffusion, key: Array) -> Any:
        """Pictures of what some of the examples are."""
        few = jax.tree.map(lambda leaf: leaf[:16], self._judged[0]["conditions"])
        return model.sample(key, num=16, told=told_of(model, few))

    def trained(self, params: Params) -> LatentDiffusion:
        """The model with the denoiser and conditions that these parameters are."""
        network = params["denoiser"]
        return dataclasses.replace(
            self.model,
            denoiser=self.saved,
            denoiser_params=unstack_blocks(network) if self.scanned else network,
            condition_params=params["conditions"],
        )

    def save(self, params: Params, folder: Path) -> Path:
        """Writes what these parameters make, here the whole model; the path of what is written."""
        self.trained(params).save(folder)
        return folder


def conditions_of(model: LatentDiffusion, dropout: float, pixels: tuple[int, ...]) -> Sequence[Condition]:
    """A pretrained model's conditions, dropped as often as is asked for, in training with images of that size."""
    found: list[Condition] = []
    for condition in model.conditions:
        changes: dict[str, Any] = {"dropout": dropout} if condition.dropout is None else {}
        changes |= {"pixels": pixels} if isinstance(condition, TextCondition) else {}
        found.append(dataclasses.replace(condition, **changes))  # type: ignore[type-var]
    return tuple(found)
