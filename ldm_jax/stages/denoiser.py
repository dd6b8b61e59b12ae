"""The second stage as the loop sees it: a denoiser, new or given, trained whole or in part."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

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
from ldm_jax.training.prefetch import ahead
from ldm_jax.training.stage import Batch, Context, Evaluation, Loss, Params

ATTENTION = ("attention", "qkv", "query", "key", "value", "attn")
"""Parts of the names of attention's layers, in all denoisers."""


def is_attention(path: Any) -> bool:
    """Whether a parameter belongs to attention, by the names on the way to it."""
    return any(word in str(getattr(part, "key", part)) for part in path for word in ATTENTION)


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


class DenoiserStage:
    """See `Stage`; the parameters are {"denoiser": ..., "conditions": {name: ...}}."""

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
    ):
        """model: all parts but the denoiser; module: the denoiser as it is trained; given: its parameters at first.

        key: of the times and noise at which examples are judged; seed: of the pictures.
        """
        self.training, self.model, self.saved = training, model, module
        self.module = computed(module, training, scan=True)
        self.scanned = getattr(self.module.config, "scan", False)
        self.latents, self.told, self.judged, self.shuffle, self.key = latents, told, judged, shuffle, key
        self.seed = seed
        self.batch_size, self.inputs = batch_size, dict(inputs or {})
        self.optimizer, self.frozen = self._optimizer(), None
        self.given = stack_blocks(given) if given is not None and self.scanned else given
        self.loss: Loss = denoiser_loss(
            self.module,
            model.process,
            jnp.asarray(model.latent_mean, jnp.float32),
            jnp.asarray(model.latent_std, jnp.float32),
            model.conditions,
            weights=self._weights(),
            count=batch_size,
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
        return place_of(len(self.latents), self.batch_size, step=k, **dataclasses.asdict(self.shuffle))

    def _batch(self, k: int) -> Batch:
        place = self._place(k)
        conditions = {name: told.batch(place) for name, told in self.told.items()}
        return {**self.latents.batch(place), "conditions": conditions}

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

    @functools.cached_property
    def _judge(self) -> Any:
        @jax.jit
        def judge(params: Params, batch: Batch, keys: Array, frozen: Any) -> Array:
            return self.loss(params, batch, keys, Context(frozen=frozen))[0].mean()

        return judge

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
        few = jax.tree.map(lambda leaf: leaf[:16], self._judged[0]["conditions"])
        told = told_of(model, few)
        return Evaluation(numbers, model.sample(key, num=16, told=told), 8)

    def trained(self, params: Params) -> LatentDiffusion:
        """The model with the denoiser and conditions that these parameters are."""
        network = params["denoiser"]
        return dataclasses.replace(
            self.model,
            denoiser=self.saved,
            denoiser_params=unstack_blocks(network) if self.scanned else network,
            condition_params=params["conditions"],
        )


def conditions_of(model: LatentDiffusion, dropout: float, pixels: tuple[int, ...]) -> Sequence[Condition]:
    """A pretrained model's conditions, dropped as often as is asked for, in training with images of that size."""
    found: list[Condition] = []
    for condition in model.conditions:
        changes: dict[str, Any] = {"dropout": dropout} if condition.dropout is None else {}
        changes |= {"pixels": pixels} if isinstance(condition, TextCondition) else {}
        found.append(dataclasses.replace(condition, **changes))  # type: ignore[type-var]
    return tuple(found)
