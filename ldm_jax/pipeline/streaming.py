"""Many images, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array

from ldm_jax.pipeline.model import LatentDiffusion


class Use(NamedTuple):
    """Drawing that begins with images: a method of `LatentDiffusion`, and what it takes."""

    method: Literal["edit", "inpaint", "upscale"]
    images: np.ndarray
    """[n h w c], in turn where more are drawn."""
    masks: np.ndarray | None = None
    """[n h w], likewise."""
    options: Mapping[str, Any] = {}
    """More arguments of the method."""

    def of(self, begin: int, size: int) -> dict[str, Any]:
        """The arguments for the images numbered begin to begin + size."""
        place = np.arange(begin, begin + size)
        own: dict[str, Any] = {"images": self.images[place % len(self.images)], **self.options}
        if self.masks is not None:
            own["masks"] = self.masks[place % len(self.masks)]
        return own


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
    use: Use | None = None,
    told: Mapping[str, Sequence[Any]] | None = None,
    **settings: Any,
) -> Iterator[np.ndarray]:
    """Batches of what `model.sample(key, num=num, first=first, ...)` gives as a whole, each as soon as it is drawn.

    Every batch but the last holds batch_size images, [b h w c]; of labels and prompts only its own are looked at.
    use: what to draw from. told: what other conditions ask for, by name, likewise in turn. Other settings are those of
    `LatentDiffusion.sample`.
    """
    size = min(batch_size, num)
    for begin in range(first, first + num, size):
        # The last batch is drawn whole, too, and cut: another size would be another compilation.
        asked = {"labels": _own(labels, begin, size), "prompts": _own(prompts, begin, size), **settings}
        asked |= {name: _own(given, begin, size) for name, given in (told or {}).items()}
        asked |= {"first": begin, "batch_size": size, "output": output}
        if use is None:
            part = model.sample(key, num=size, **asked)
        else:
            asked = {name: value for name, value in asked.items() if value is not None}
            part = getattr(model, use.method)(key, **use.of(begin, size), **asked)
        yield np.asarray(part)[: first + num - begin]


def _own(given: Sequence[Any] | None, begin: int, size: int) -> list[Any] | None:
    """Of what is repeated in turn over all images, a cycle that is the same for images begin to begin + size."""
    if given is None or len(given) <= size:
        return None if given is None else list(given)
    cycle = [None] * size
    for i in range(begin, begin + size):
        cycle[i % size] = given[i % len(given)]
    return cycle
