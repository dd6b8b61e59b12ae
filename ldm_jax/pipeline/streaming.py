"""Many images, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Array

from ldm_jax.pipeline.model import LatentDiffusion


def stream(
    model: LatentDiffusion,
    key: Array,
    num: int,
    *,
    first: int = 0,
    batch_size: int = 64,
    labels: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
    output: Literal["images", "latents"] = "images",
    **settings: Any,
) -> Iterator[np.ndarray]:
    """Batches of what `model.sample(key, num=num, first=first, ...)` gives as a whole, each as soon as it is drawn.

    Every batch but the last holds batch_size images, [b h w c]; of labels and prompts only its own are looked at.
    Other settings are those of `LatentDiffusion.sample`.
    """
    size = min(batch_size, num)
    for begin in range(first, first + num, size):
        # The last batch is drawn whole, too, and cut: another size would be another compilation.
        part = model.sample(
            key,
            labels=_own(labels, begin, size),
            prompts=_own(prompts, begin, size),
            num=size,
            first=begin,
            batch_size=size,
            output=output,
            **settings,
        )
        yield np.asarray(part)[: first + num - begin]


def _own(given: Sequence[Any] | None, begin: int, size: int) -> list[Any] | None:
    """Of what is repeated in turn over all images, a cycle that is the same for images begin to begin + size."""
    if given is None or len(given) <= size:
        return None if given is None else list(given)
    cycle = [None] * size
    for i in range(begin, begin + size):
        cycle[i % size] = given[i % len(given)]
    return cycle
