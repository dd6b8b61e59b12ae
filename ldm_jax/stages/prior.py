"""Prior preservation (DreamBooth, Ruiz et al. 2023, arXiv 2208.12242): what a denoiser knew stays while it learns more.

A part of each batch comes from a second source, as a rule one that the model itself drew before, and its loss is added:
E[own] + weight * E[prior], eq. 2 of the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from ldm_jax.cache import ConditionCache, Latents, place_of
from ldm_jax.cache.place import Place
from ldm_jax.errors import InputError
from ldm_jax.training.stage import Batch


@dataclasses.dataclass(frozen=True)
class Prior:
    """Other examples that are trained on beside the data (DreamBooth, Ruiz et al. 2023, arXiv 2208.12242)."""

    source: str = ""
    """A data source as in data.source, such as npz:x.npz that `ldm-jax augment` or `sample.py` drew."""
    weight: float = 1.0
    """What its mean loss is multiplied by before it is added to that of the data, whatever the share."""
    share: float = 0.5
    """Part of each batch that comes from it."""

    def __post_init__(self) -> None:
        where = "stages.denoiser.prior"
        if not self.weight >= 0.0:
            raise InputError(f"{where}.weight: {self.weight} must be at least 0")
        if not 0.0 < self.share < 1.0:
            raise InputError(f"{where}.share: {self.share} must be between 0 and 1, neither included")

    def rows(self, batch_size: int) -> int:
        """Examples of a batch that come from it; InputError where that would be none or all."""
        rows = round(batch_size * self.share)
        if not 0 < rows < batch_size:
            raise InputError(
                f"stages.denoiser.prior.share: {self.share} of data.batch_size {batch_size} must leave at least one "
                "example of each source"
            )
        return rows


class Cached(NamedTuple):
    """A source as the stage reads it: latents, what the conditions made of each example, the seed of its order."""

    latents: Latents
    told: Mapping[str, ConditionCache]
    seed: int

    def batch(self, place: Place) -> Batch:
        """The arrays [b ...] of these examples."""
        conditions = {name: told.batch(place) for name, told in self.told.items()}
        return {**self.latents.batch(place), "conditions": conditions}

    def rows(self, batch_size: int, step: int, which: np.ndarray) -> Batch:
        """The rows `which` [b] of the source's own global batch of a step."""
        place = place_of(len(self.latents), batch_size, self.seed, step)
        return self.batch(Place(*(part[which] for part in place)))


def own_rows(batch_size: int, prior: Prior | None) -> int:
    """Examples of a batch that are the data's own."""
    return batch_size if prior is None else batch_size - prior.rows(batch_size)


def prior_rows(batch_size: int, count: int, step: int) -> Bool[np.ndarray, " b"]:
    """Which rows of a global batch are the prior's: `count` of them, evenly spread, others each step.

    Stratified times give row i of a batch the i-th part of [0, 1]: each source must come to all of them.
    """
    place = (np.arange(batch_size) + step) % batch_size
    return (place + 1) * count // batch_size > place * count // batch_size


def mixed_batch(
    own: Cached, prior: Cached, settings: Prior, batch_size: int, step: int, process_index: int, process_count: int
) -> Batch:
    """This process's rows of the global batch of a step, arrays [b ...]; `weight` [b] makes the mean eq. 2's sum."""
    count = settings.rows(batch_size)
    b = batch_size // process_count
    mine = slice(process_index * b, (process_index + 1) * b)
    chosen = prior_rows(batch_size, count, step)
    rank = np.where(chosen, np.cumsum(chosen), np.cumsum(~chosen)) - 1
    here, rank = chosen[mine], rank[mine]
    parts = own.rows(batch_size - count, step, rank[~here]), prior.rows(count, step, rank[here])
    back = np.argsort(np.concatenate([np.flatnonzero(~here), np.flatnonzero(here)]))
    batch = jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *parts)
    weight = np.where(here, settings.weight * batch_size / count, batch_size / (batch_size - count))
    index = np.arange(mine.start, mine.stop, dtype=np.int32)
    return {**batch, "index": index, "weight": weight.astype(np.float32)}
