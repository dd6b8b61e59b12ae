"""Batches as a function of the step."""

import sys
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32, Int, Int32

from ldm_jax.data.cores import available_cores
from ldm_jax.data.order import choices, order
from ldm_jax.data.source import Example, Source, annotation, signal_shape
from ldm_jax.data.transforms import prepare, to_float
from ldm_jax.data.view import View
from ldm_jax.errors import InputError

Batch = dict[str, np.ndarray]

MEMORY_LIMIT = 2**30  # bytes
MAX_THREADS = 8


def as_float(examples: np.ndarray) -> Float32[np.ndarray, "*shape"]:
    """Pictures as float32 in [-1, 1]; signals as they are."""
    return to_float(examples) if examples.dtype == np.uint8 else examples


class Loader:
    """The training batches of a source: `loader[k]` is the global batch k, or this process's slice of it.

    A batch is a dict of numpy arrays, where b = batch_size / process_count:

    - `image` float32 [b h w c] in [-1, 1], with h = w = image_size and c = channels
    - `label` int32 [b], -1 for none
    - `index` int32 [b], the position in the global batch, 0..batch_size-1: randomness is keyed on it
    - `example` int32 [b], which example of the source this is
    - `flipped` bool [b], whether the image is mirrored

    Batch k depends on (source, batch_size, seed, k) alone. The examples are one endless stream, shuffled anew each
    epoch, in which each epoch has every example once; a batch may straddle two epochs. Whether an example is flipped is
    decided by a hash of the seed and its position in that stream. With several processes, process p gets rows
    p * batch_size / process_count and on of the same global batch.

    Where all prepared images take at most `memory_limit` bytes (n * image_size^2 * channels; 1 GiB unless told
    otherwise), each is decoded and resized once, at its first use, and kept; from then on a batch is a gather. Larger
    sets are decoded whenever they are needed, in `threads` threads where they are iterated over (unless told
    otherwise, as many as there are cores, at most 8).

    Raises:
      InputError: the source is empty, batch_size is not a positive multiple of process_count, channels is neither 1
        nor 3, image_size is not positive, or seed is negative.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        image_size: int,
        channels: int,
        seed: int,
        flip: bool = False,
        process_index: int = 0,
        process_count: int = 1,
        memory_limit: int = MEMORY_LIMIT,
        threads: int | None = None,
    ):
        if len(source) == 0:
            raise InputError("data.source: it has no examples; accepted: at least one")
        if batch_size < 1 or batch_size % process_count:
            raise InputError(
                f"data.batch_size: {batch_size}; accepted: a positive multiple of the number of processes, "
                f"{process_count}"
            )
        if channels not in (1, 3) and signal_shape(source) is None:
            raise InputError(f"data.channels: {channels}; accepted: 1 (grey) or 3 (colour)")
        if image_size < 1:
            raise InputError(f"data.image_size: {image_size}; accepted: 1 or more")
        if seed < 0:
            raise InputError(f"seed: {seed}; accepted: 0 or more")
        if not 0 <= process_index < process_count:
            raise ValueError(f"process {process_index} of {process_count}")
        signal = signal_shape(source)
        if signal is not None and (flip or signal[-1] != channels):
            what = f"channels ({signal[-1]}) must be the autoencoder's {channels}" if not flip else "flip must be False"
            raise InputError(f"data.source: its examples are signals {list(signal)}; {what}")
        self.shape: tuple[int, ...] = (image_size, image_size, channels) if signal is None else signal
        """[*space c] of one prepared example."""
        self._kind = np.uint8 if signal is None else np.float32
        self.source = source
        self.batch_size = batch_size
        self.image_size = image_size
        self.channels = channels
        self.seed = seed
        self.flip = flip
        self.process_index = process_index
        self.process_count = process_count
        self.threads = threads or min(available_cores(), MAX_THREADS)
        n, shape = len(source), self.shape
        self.in_memory = n * int(np.prod(shape)) * np.dtype(self._kind).itemsize <= memory_limit
        # Filled on demand. Two threads may fill the same place at once, with the same bytes; _kept is set last.
        self._images = np.empty((n, *shape), self._kind) if self.in_memory else None
        self._image_labels = np.full(n, -1, np.int32)
        self._kept = np.zeros(n, bool)
        self._all_labels: np.ndarray | None = None

    def __getitem__(self, step: int) -> Batch:
        """Batch `step`, computed in this thread."""
        if step < 0:
            raise IndexError(f"step {step} is negative")
        examples, flipped = self._order(step)
        flipped &= self.flip
        images, labels = self._gather(examples)
        images[flipped] = images[flipped, :, ::-1]
        first = self.process_index * len(examples)
        return {
            "image": as_float(images),
            "label": labels,
            "index": np.arange(first, first + len(examples), dtype=np.int32),
            "example": examples.astype(np.int32),
            "flipped": flipped,
        }

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Batch]]:
        """(k, batch k) for k from `start` to before `stop` (None: for ever), prepared ahead by background threads.

        Abandoning the iterator stops its threads.
        """
        for offset, batch in enumerate(
            self._ahead(self.__getitem__, range(start, sys.maxsize if stop is None else stop))
        ):
            yield start + offset, batch

    def prepared(self, index: int) -> np.ndarray:
        """Example `index` as batches have it, unflipped and before its conversion to floats."""
        return self._gather(np.array([index]))[0][0]

    def views(self, index: int, whole: bool = True) -> list[Example]:
        """Example `index` as training sees it, and behind it its mirror image where images are flipped.

        whole: with what belongs to it, `paired` and `objects`, for which the source is read anew.
        """
        example = self.source[index] if whole else Example(self.prepared(index), *annotation(self.source, index))
        if self._kind is np.float32:
            return [example]
        image = prepare(example.image, self.image_size, self.channels) if whole else example.image
        shape = (int(example.image.shape[0]), int(example.image.shape[1]))
        seen = [example._replace(image=image, view=View(shape, self.image_size))]
        if self.flip:
            mirror = np.ascontiguousarray(image[:, ::-1])
            seen.append(example._replace(image=mirror, view=View(shape, self.image_size, mirrored=True)))
        return seen

    def annotations(self) -> Iterator[Example]:
        """Every example of the source in order, without its image where the source knows how."""
        nothing = np.empty((0, 0, 1), np.uint8)
        for i in range(len(self.source)):
            yield Example(nothing, *annotation(self.source, i))

    def captions(self, step: int) -> list[str]:
        """A caption for each example of batch `step`, "" for none; of several the one that cached texts have there."""
        examples, _ = self._order(step)
        drawn = choices(self.batch_size, self.seed, step, **self._process())
        found = [annotation(self.source, i)[1] for i in examples.tolist()]
        return [texts[int(k) % len(texts)] if texts else "" for texts, k in zip(found, drawn, strict=True)]

    @property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """The label of every example of the source, -1 for none; read once, without decoding images where possible."""
        if self._all_labels is None:
            self._all_labels = np.array([annotation(self.source, i)[0] for i in range(len(self.source))], np.int32)
        return self._all_labels

    def in_order(self, batch_size: int) -> Iterator[tuple[int, Float32[np.ndarray, "b ... c"], int]]:
        """Every image of the source once, unshuffled and unflipped, the same on every process.

        Yields (start, images float32 [batch_size h w c] in [-1, 1], valid): the images are examples start to
        start + valid - 1; the last batch is filled up by repeating the last image.
        """
        if batch_size < 1:
            raise InputError(f"batch_size: {batch_size}; accepted: 1 or more")
        n = len(self.source)

        def batch(start: int) -> tuple[int, np.ndarray, int]:
            examples = np.minimum(np.arange(start, start + batch_size), n - 1)
            return start, as_float(self._gather(examples)[0]), min(batch_size, n - start)

        yield from self._ahead(batch, range(0, n, batch_size))

    def examples(self, step: int) -> Int[np.ndarray, " b"]:
        """Which examples of the source batch `step` holds; nothing is decoded."""
        return self._order(step)[0]

    def _order(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """This process's examples of batch `step`, and which of them the coin would flip."""
        return order(len(self.source), self.batch_size, self.seed, step, **self._process())

    def _process(self) -> dict[str, int]:
        return {"process_index": self.process_index, "process_count": self.process_count}

    def _ahead(self, function: Any, steps: range) -> Iterator[Any]:
        """function(step) for each step, computed by background threads, in order."""
        data = grain.MapDataset.range(steps.start, steps.stop, steps.step).map(function)
        # Grain's defaults are 16 threads and 500 elements, and an element here is a whole batch.
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.threads + 1)
        iterator = iter(data.to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()

    def _gather(self, examples: np.ndarray) -> tuple[np.ndarray, Int32[np.ndarray, " b"]]:
        """Prepared images and their labels, both the caller's to change."""
        if self._images is not None:
            for i in set(examples[~self._kept[examples]].tolist()):
                self._images[i], self._image_labels[i] = self._prepared(i)
                self._kept[i] = True
            return self._images[examples], self._image_labels[examples]
        found = {i: self._prepared(i) for i in set(examples.tolist())}
        images, labels = zip(*(found[i] for i in examples.tolist()), strict=True)
        return np.stack(images), np.array(labels, np.int32)

    def _prepared(self, index: int) -> tuple[np.ndarray, int]:
        example = self.source[index]
        if self._kind is np.float32:
            return example.image, int(example.label)
        return prepare(example.image, self.image_size, self.channels), int(example.label)
