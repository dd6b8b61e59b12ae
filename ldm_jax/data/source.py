"""What a data set looks like to the rest of the package, and how one is split."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from ldm_jax.data.hashing import mix
from ldm_jax.data.view import View
from ldm_jax.errors import InputError


class Objects(NamedTuple):
    """Things in a picture and where they are."""

    boxes: Float[np.ndarray, "k 4"]
    """(x0 y0 x1 y1) in pixels of the picture as it was read."""
    classes: Int[np.ndarray, "k"]
    """Places of their names in the source's `object_names`."""


class Example(NamedTuple):
    """One example. `image` is uint8 [h w c] with c 1 or 3, of any size, or a signal; no label is -1.

    A signal is float32 [*space c] in [-1, 1], and its source says `signal_shape`. `captions` are all wordings of what
    the image shows, none of them empty; which one a batch takes is decided where batches are made.
    """

    image: np.ndarray
    label: int = -1
    captions: tuple[str, ...] = ()
    paired: Path | np.ndarray | None = None
    """An image that belongs to it, read by who needs it: a file, or pixels [h w c] of the image's proportions."""
    objects: Objects | None = None
    view: View | None = None
    """How training sees it, where `image` is as training sees it; None where it is as it was read."""

    @property
    def caption(self) -> str:
        """The first caption, "" where there is none."""
        return self.captions[0] if self.captions else ""


Annotation: TypeAlias = tuple[int, tuple[str, ...]]
"""The label and the captions of an example."""


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of a data set.

    `class_names[label]` names a label; it is empty where there are no labels, so its length is the number of classes.
    Reading must be safe from several threads. A source whose labels and captions cost much less than its images also
    offers `annotation(i) -> (label, captions)`, which `annotation` below uses; one that knows without reading whether
    there are captions says so in `has_captions`. One whose examples are `paired` has a true `has_pairs`, one whose
    examples have `objects` has their names in `object_names`.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


def annotation(source: Source, index: int) -> Annotation:
    """The label and the captions of example `index`, without decoding its image where the source knows how."""
    read: Callable[[int], Annotation] | None = getattr(source, "annotation", None)
    if read is not None:
        return read(index)
    example = source[index]
    return example.label, example.captions


def signal_shape(source: Source) -> tuple[int, ...] | None:
    """[*space c] of a source of signals that are no pictures, None for pictures."""
    return getattr(_whole(source), "signal_shape", None)


def _whole(source: Source) -> Source:
    """The source that a Subset or a Renumbered is of."""
    while isinstance(source, Subset | Renumbered):
        source = source.source
    return source


def has_captions(source: Source) -> bool:
    """Whether any example has a caption: by the source's word, or else by all annotations."""
    known = getattr(_whole(source), "has_captions", None)
    if known is not None:
        return bool(known)
    return any(annotation(source, i)[1] for i in range(len(source)))


def has_pairs(source: Source) -> bool:
    """Whether an image belongs to each example."""
    return bool(getattr(_whole(source), "has_pairs", False))


def object_names(source: Source) -> tuple[str, ...]:
    """What the objects in the examples may be; none where their places are not known."""
    return getattr(_whole(source), "object_names", ())


def summary(source: Source, test: Source | None) -> str:
    """What was found, in a few words: images (or signals) to train with, classes, captions, how many are held out."""
    kind = "images" if signal_shape(source) is None else "signals"
    captions = "yes" if has_captions(source) else "no"
    more = ", pairs: yes" * has_pairs(source)
    more += f", boxes of {len(object_names(source))} kinds" * bool(object_names(source))
    held_out = 0 if test is None else len(test)
    return f"{len(source)} {kind}, {len(source.class_names)} classes, captions: {captions}{more}, held out: {held_out}"


def evenly(total: int, count: int) -> Int[np.ndarray, " n"]:
    """`count` of the indices 0 .. total - 1, evenly spread, both ends among them; all where there are no more."""
    return np.linspace(0, total - 1, min(total, count)).round().astype(np.int64)


class Subset:
    """The examples of `source` at `indices` [n], in that order; itself a Source."""

    def __init__(self, source: Source, indices: Int[np.ndarray, " n"]):
        self.source = source
        self.indices = indices
        self.class_names = source.class_names

    @classmethod
    def evenly(cls, source: Source, count: int) -> "Subset":
        """`count` examples spread evenly over a source, which is often sorted by class (all, where it has no more)."""
        return cls(source, evenly(len(source), count))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def annotation(self, index: int) -> Annotation:
        """Class (-1: none) and captions of an example, without its image."""
        return annotation(self.source, int(self.indices[index]))


class Renumbered:
    """The same examples with other class numbers; itself a Source.

    numbers: of each of the source's classes, its place in `class_names`, -1 for one that counts as no label.
    """

    def __init__(self, source: Source, numbers: Sequence[int], class_names: tuple[str, ...]):
        self.source, self.numbers, self.class_names = source, tuple(numbers), class_names

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        return example._replace(label=self._number(example.label))

    def annotation(self, index: int) -> Annotation:
        label, captions = annotation(self.source, index)
        return self._number(label), captions

    def _number(self, label: int) -> int:
        return self.numbers[label] if label >= 0 else -1


def hold_out(source: Source, split: str, spec: str) -> Source:
    """The `split` ("train" or "test") of a source that has no test split of its own.

    "test" is a tenth (rounded down, but at least one where there are two), "train" is the rest, each in the source's
    order. Which examples are held out depends on the number of examples alone, so both calls agree, on every machine.

    Raises:
      InputError: the split is another one, or "test" is asked of a single example.
    """
    check_split(split, ("train", "test"), spec)
    n = len(source)
    held = max(n // 10, 1) if n > 1 else 0
    if split == "test" and held == 0:
        raise InputError(f"data.source: {spec} has {n} example, too few to hold some out for testing; at least 2 are")
    by_hash = np.argsort(mix(np.arange(n, dtype=np.uint64), seed=0), kind="stable")
    chosen = by_hash[:held] if split == "test" else by_hash[held:]
    return Subset(source, np.sort(chosen))


def check_split(split: str, accepted: tuple[str, ...], spec: str) -> None:
    """Raise InputError unless `split` is one of those accepted."""
    if split not in accepted:
        raise InputError(f"split: {split!r} is not a split of {spec}; accepted: {', '.join(accepted)}")
