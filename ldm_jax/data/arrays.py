"""Sources whose images lie in memory, and npz files."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, UInt8

from ldm_jax.data.source import Annotation, Example
from ldm_jax.errors import InputError


class ArraySource:
    """Images [n h w c] in memory, with optional labels [n] and captions (of each image one or several); a Source."""

    def __init__(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int[np.ndarray, " n"] | None = None,
        captions: Sequence[str] | Sequence[tuple[str, ...]] | None = None,
        class_names: tuple[str, ...] = (),
    ):
        self.images = images
        self.labels = labels
        self.captions = None if captions is None else tuple(map(wordings, captions))
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], *self.annotation(index))

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


def open_npz(path: str) -> ArraySource | SignalSource:
    """All the examples in an .npz file.

    It holds `images`, uint8 [n h w c] with c 1 or 3, or [n h w]; or `signals`, floats [n *space c] in [-1, 1] with any
    number of axes in between, which are used as they are. Optionally `labels`, integers [n] from 0, or -1 for
    none; `captions`, strings [n]; `class_names`, strings, one for each label (without it they are "0", "1", ...).

    Raises:
      InputError: there is no such file, it is not an npz file, or an array has the wrong type, shape or values.
    """
    spec = f"npz:{path}"
    file_path = Path(path).expanduser()
    if not file_path.is_file():
        raise InputError(f"data.source: {spec}: there is no such file; accepted: an .npz file with an array 'images'")
    try:
        # Opened here because np.load leaves a file open that turns out not to be a zip.
        with open(file_path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {
                name: file[name] for name in ("images", "signals", "labels", "captions", "class_names") if name in file
            }
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"data.source: {spec} cannot be read as npz without pickle ({reason})") from error
    if "signals" in arrays and "images" not in arrays:
        return _signals(arrays, spec)
    if "images" not in arrays:
        raise InputError(f"data.source: {spec} has no array 'images'; accepted: uint8 [n h w c] or [n h w]")
    images = arrays["images"]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        was = f"{arrays['images'].dtype} {list(arrays['images'].shape)}"
        raise InputError(
            f"data.source: {spec}: images is {was}; accepted: uint8 [n h w c] with c 1 or 3, or [n h w], not empty"
        )
    n = len(images)
    labels = _npz_labels(arrays.get("labels"), n, spec)
    return ArraySource(
        images,
        labels,
        _npz_strings(arrays.get("captions"), "captions", n, spec),
        _npz_class_names(arrays.get("class_names"), labels, spec),
    )


def _signals(arrays: dict[str, np.ndarray], spec: str) -> SignalSource:
    signals = arrays["signals"]
    if signals.dtype.kind != "f" or signals.ndim < 3 or 0 in signals.shape:
        was = f"{signals.dtype} {list(signals.shape)}"
        raise InputError(f"data.source: {spec}: signals is {was}; accepted: floats [n *space c], not empty")
    if not np.abs(signals).max() <= 1.001:
        raise InputError(f"data.source: {spec}: signals go up to {np.abs(signals).max():g}; accepted: [-1, 1]")
    labels = _npz_labels(arrays.get("labels"), len(signals), spec)
    return SignalSource(signals.astype(np.float32), labels, _npz_class_names(arrays.get("class_names"), labels, spec))


def _npz_labels(labels: np.ndarray | None, n: int, spec: str) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.shape != (n,) or labels.min() < -1 or labels.max() >= 2**31:
        raise InputError(
            f"data.source: {spec}: labels is {labels.dtype} {list(labels.shape)}; accepted: integers [{n}], -1 or more"
        )
    return labels.astype(np.int64)


def _npz_strings(strings: np.ndarray | None, name: str, n: int | None, spec: str) -> tuple[str, ...] | None:
    if strings is None:
        return None
    if strings.dtype.kind != "U" or strings.ndim != 1 or (n is not None and len(strings) != n):
        was = f"{strings.dtype} {list(strings.shape)}"
        raise InputError(f"data.source: {spec}: {name} is {was}; accepted: strings [{'k' if n is None else n}]")
    return tuple(strings.tolist())


def _npz_class_names(names: np.ndarray | None, labels: np.ndarray | None, spec: str) -> tuple[str, ...]:
    needed = 0 if labels is None else int(labels.max()) + 1
    given = _npz_strings(names, "class_names", None, spec)
    if given is None:
        return tuple(map(str, range(needed)))
    if len(given) < needed:
        raise InputError(f"data.source: {spec}: class_names has {len(given)} names; labels go up to {needed - 1}")
    return given
