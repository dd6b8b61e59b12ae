"""Sources whose examples lie in memory."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int, Integer, UInt8

from ldm_jax.data.source import Annotation, Example


class ArraySource:
    """Images [n h w c] in memory; a Source.

    Optional: labels [n], captions (of each image one or several), paired [n h w c]: an image that belongs to each.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int[np.ndarray, " n"] | None = None,
        captions: Sequence[str] | Sequence[tuple[str, ...]] | None = None,
        class_names: tuple[str, ...] = (),
        paired: Integer[np.ndarray, "n h2 w2 c2"] | None = None,
    ):
        self.images = images
        self.paired = paired
        self.labels = labels
        self.captions = None if captions is None else tuple(map(wordings, captions))
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        paired = None if self.paired is None else self.paired[index]
        return Example(self.images[index], *self.annotation(index), paired)

    @property
    def has_pairs(self) -> bool:
        """Whether another image stands beside each."""
        return self.paired is not None

    def annotation(self, index: int) -> Annotation:
        label = -1 if self.labels is None else int(self.labels[index])
        return label, () if self.captions is None else self.captions[index]


def wordings(caption: str | tuple[str, ...]) -> tuple[str, ...]:
    """One caption or several as an Example has them: without the empty ones."""
    return tuple(text for text in ((caption,) if isinstance(caption, str) else caption) if text)


class SignalSource:
    """Signals float32 [n *space c] in [-1, 1] in memory, which are used as they are, with optional labels [n]."""

    def __init__(
        self,
        signals: Float32[np.ndarray, "n ... c"],
        labels: Int[np.ndarray, " n"] | None = None,
        class_names: tuple[str, ...] = (),
    ):
        self.signals, self.labels, self.class_names = signals, labels, class_names

    @property
    def signal_shape(self) -> tuple[int, ...]:
        """[*space c] of every example."""
        return self.signals.shape[1:]

    def __len__(self) -> int:
        return len(self.signals)

    def __getitem__(self, index: int) -> Example:
        return Example(self.signals[index], *self.annotation(index))

    def annotation(self, index: int) -> Annotation:
        return -1 if self.labels is None else int(self.labels[index]), ()
