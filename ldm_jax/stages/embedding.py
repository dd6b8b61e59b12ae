"""Textual inversion (Gal et al. 2023, arXiv 2208.01618): a new word's vectors are trained, all networks are frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ldm_jax.conditions import Condition, Encoder, TextCondition
from ldm_jax.conditions.new_word import NewWordCondition
from ldm_jax.errors import InputError
from ldm_jax.models import TextEncoder
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.pipeline.adapters import with_rows, with_tokens
from ldm_jax.pretrained.clip_vocabulary import END, START
from ldm_jax.pretrained.embeddings import FILES, Word, write_word
from ldm_jax.stages.denoiser import DenoiserStage
from ldm_jax.stages.denoiser_config import Embedding
from ldm_jax.stages.denoiser_loss import Weights
from ldm_jax.training.stage import Batch, Context, Metrics, Params

FIELD = "stages.denoiser.embedding"


def with_new_word(conditions: Sequence[Condition], embedding: Embedding) -> tuple[Condition, ...]:
    """A pipeline's conditions, that of texts with the word; InputError where its encoders can't learn one."""
    text = next((condition for condition in conditions if isinstance(condition, TextCondition)), None)
    encoders: Mapping[str, Encoder] = {} if text is None else text.encoders.encoders
    clips = all(isinstance(e.module, TextEncoder) and e.tokenizer.id_of(END) is not None for e in encoders.values())
    if text is None or not clips or text.encoders.style == "sd3" or any(e.params is None for e in encoders.values()):
        raise InputError(f"{FIELD}: a word is trained for pipelines whose encoders are CLIP's: SD 1, SD 2, SDXL")
    vectors = {name: initial(encoder, embedding) for name, encoder in encoders.items()}
    tokens = Word(embedding.token, vectors).tokens
    known = {name: with_tokens(encoder, tokens, vectors[name]) for name, encoder in encoders.items()}
    new = NewWordCondition(
        dataclasses.replace(text.encoders, encoders=known),
        sizes=text.sizes,
        scores=text.scores,
        # A word that isn't told learns nothing.
        dropout=0.0,
        pixels=text.pixels,
        name=text.name,
        word=embedding.token,
        templates=embedding.templates,
    )
    return tuple(new if condition is text else condition for condition in conditions)


def initial(encoder: Encoder, embedding: Embedding) -> Float[np.ndarray, "n d"]:
    """What the word's vectors begin as; InputError where `init` is more tokens than it has vectors."""
    table = np.asarray(encoder.params["tokens"]["embedding"], np.float32)
    if not embedding.init:
        return np.tile(table.mean(axis=0, keepdims=True), (embedding.vectors, 1))
    ids = encoder.tokenizer([embedding.init], pad=False).ids[0]
    ids = [number for number in ids.tolist() if number not in map(encoder.tokenizer.id_of, (START, END))]
    if not 0 < len(ids) <= embedding.vectors:
        raise InputError(
            f"{FIELD}.init: {embedding.init!r} is {len(ids)} tokens, the word has {embedding.vectors} vectors; name a "
            "shorter one, or give it more vectors"
        )
    return table[np.resize(ids, embedding.vectors)]


class EmbeddingStage(DenoiserStage):
    """See `Stage`; the parameters are {"word": {encoder's name: [n d]}}."""

    room = "embedding"

    def __init__(self, *args: Any, given: Params, **options: Any):
        super().__init__(*args, given=None, **options)
        if self.scanned:
            raise InputError("stages.denoiser.scan: it must be False where a word is trained")
        condition = self.model.condition(NewWordCondition)
        assert condition is not None and self.training.embedding is not None
        self.condition: NewWordCondition = condition
        encoders = condition.encoders.encoders
        count = self.training.embedding.vectors
        self.ids = {name: list(range(e.tokenizer.size - count, e.tokenizer.size)) for name, e in encoders.items()}
        self.frozen = {"denoiser": given, "encoders": {name: e.params for name, e in encoders.items()}}
        self.loss = self._of_the_word(self.loss)

    def _optimizer(self) -> optax.GradientTransformation:
        return self.training.make_optimizer()

    def _weights(self) -> Weights:
        return lambda params, context: context.frozen["denoiser"]

    def _of_the_word(self, loss: Any) -> Any:
        """The loss as a function of the word's vectors."""

        def word_loss(
            params: Params,
            batch: Batch,
            keys: Array,
            context: Context = Context(),  # noqa: B008
        ) -> tuple[Float[Array, "b"], Metrics]:
            encoders = self._encoders(context.frozen["encoders"], params)
            return loss({"conditions": {self.condition.name: encoders}}, batch, keys, context)

        return word_loss

    def _encoders(self, frozen: Mapping[str, Params], params: Params) -> dict[str, Params]:
        return {name: with_rows(own, self.ids[name], params["word"][name]) for name, own in frozen.items()}

    def init(self, key: Array, given: Params) -> Params:
        encoders = self.condition.encoders.encoders
        tables = {name: jnp.asarray(encoder.params["tokens"]["embedding"]) for name, encoder in encoders.items()}
        return {"word": {name: table[jnp.asarray(self.ids[name])] for name, table in tables.items()}}

    def _told(self, model: LatentDiffusion, key: Array) -> Any:
        return model.sample(key, num=8, prompts=list(self.condition.texts))

    def trained(self, params: Params) -> LatentDiffusion:
        """The pipeline with the word in its text encoders."""
        assert self.frozen is not None
        text = self.condition.plain(self._encoders(self.frozen["encoders"], params))
        conditions = tuple(text if condition is self.condition else condition for condition in self.model.conditions)
        return dataclasses.replace(
            self.model, denoiser=self.saved, denoiser_params=self.frozen["denoiser"], conditions=conditions
        )

    def save(self, params: Params, folder: Path) -> Path:
        """Writes the word alone, as diffusers reads it; the path of the file."""
        write_word(folder / FILES[0], Word(self.condition.word, params["word"]))
        return folder / FILES[0]
