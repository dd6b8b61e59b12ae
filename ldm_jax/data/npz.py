"""`npz:PATH`: arrays in a file."""

import logging
import zipfile
from pathlib import Path

import numpy as np

from ldm_jax.data.arrays import ArraySource, SignalSource
from ldm_jax.data.metadata import numbered
from ldm_jax.errors import InputError

log = logging.getLogger("ldm_jax.data")

NAMES = {
    "images": ("images", "arr_0"),
    "signals": ("signals",),
    "labels": ("labels", "label"),
    "captions": ("captions", "caption", "texts", "text", "prompts", "prompt"),
    "class_names": ("class_names",),
    "paired": ("paired",),
}
"""What the arrays may be called; where a file has two of a kind, the first counts."""
OURS = "parameters"
"""How `sample.py` drew what it wrote."""
NPY = b"\x93NUMPY"


def open_npz(path: str) -> ArraySource | SignalSource:
    """All the examples in an .npz file.

    It holds `images` (or `arr_0`), uint8 [n h w c] with c 1 or 3, or [n h w]; or `signals`, floats [n *space c] in
    [-1, 1] with any number of axes in between, which are used as they are. Optionally `labels` (or `label`), [n] or
    [n 1]; `captions`, strings [n], or [n m] where an image has up to m, the others ""; `class_names`, strings;
    `paired`, uint8 [n h w c] or [n h w] of the images' proportions, an image that belongs to each.

    Labels are strings, or integers with -1 for none. Integers count from 0 where there are `class_names`; otherwise the
    values that occur are the classes, each called by its value. An .npy file is its images alone.

    Raises:
      InputError: there is no such file, it is not an npz file, or an array has the wrong type, shape or values.
    """
    spec = f"npz:{path}"
    arrays, unread = _read(Path(path).expanduser(), spec)
    names = _strings(arrays.get("class_names"), "class_names", None, spec)
    if "signals" in arrays and "images" not in arrays:
        signals = _signals(arrays["signals"], spec)
        labels, class_names = _labels(arrays.get("labels"), len(signals), names, spec)
        source = SignalSource(signals, labels, class_names)
        unread = unread + [name for name in ("captions", "paired") if name in arrays]
    else:
        images = _images(arrays.get("images"), unread, spec)
        labels, class_names = _labels(arrays.get("labels"), len(images), names, spec)
        captions = _strings(arrays.get("captions"), "captions", len(images), spec)
        source, unread = (
            ArraySource(images, labels, captions, class_names, _paired(arrays.get("paired"), images.shape, spec)),
            unread + ["signals"] * ("signals" in arrays),
        )
    if unread:
        log.warning("%s: arrays not read: %s", spec, ", ".join(unread))
    return source


def _read(file_path: Path, spec: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays by our names, and the names of the others."""
    if not file_path.is_file():
        raise InputError(f"data.source: {spec}: there is no such file; accepted: an .npz file with an array 'images'")
    try:
        # Opened here because np.load leaves a file open that turns out not to be a zip.
        with open(file_path, "rb") as opened:
            alone = opened.read(len(NPY)) == NPY
            opened.seek(0)
            if alone:
                return {"images": np.load(opened, allow_pickle=False)}, []
            with np.load(opened, allow_pickle=False) as file:
                chosen = {kind: next((n for n in names if n in file), None) for kind, names in NAMES.items()}
                arrays = {kind: file[name] for kind, name in chosen.items() if name is not None}
                return arrays, [name for name in file.files if name not in (OURS, *chosen.values())]
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"data.source: {spec} cannot be read as npz without pickle ({reason})") from error


def _images(images: np.ndarray | None, others: list[str], spec: str) -> np.ndarray:
    if images is None:
        has = f" (it has {', '.join(others[:5])})" if others else ""
        raise InputError(f"data.source: {spec} has no array 'images'{has}; accepted: uint8 [n h w c] or [n h w]")
    found = images[..., None] if images.ndim == 3 else images
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[-1] not in (1, 3) or 0 in found.shape:
        was = f"{images.dtype} {list(images.shape)}"
        raise InputError(
            f"data.source: {spec}: images is {was}; accepted: uint8 [n h w c] with c 1 or 3, or [n h w], not empty"
        )
    return found


def _paired(paired: np.ndarray | None, shape: tuple[int, ...], spec: str) -> np.ndarray | None:
    """An image that belongs to each of the images [n h w c], as [n h w c]."""
    if paired is None:
        return None
    found = paired[..., None] if paired.ndim == 3 else paired
    fits = found.ndim == 4 and len(found) == shape[0] and found.shape[-1] in (1, 3)
    if found.dtype != np.uint8 or not fits or found.shape[1] * shape[2] != found.shape[2] * shape[1]:
        raise InputError(
            f"data.source: {spec}: paired is {paired.dtype} {list(paired.shape)}; accepted: uint8 [{shape[0]} h w c] "
            f"with c 1 or 3, or [{shape[0]} h w], of the images' proportions, {shape[1]} to {shape[2]}"
        )
    return found


def _signals(signals: np.ndarray, spec: str) -> np.ndarray:
    if signals.dtype.kind != "f" or signals.ndim < 3 or 0 in signals.shape:
        was = f"{signals.dtype} {list(signals.shape)}"
        raise InputError(f"data.source: {spec}: signals is {was}; accepted: floats [n *space c], not empty")
    if not np.abs(signals).max() <= 1.001:
        raise InputError(f"data.source: {spec}: signals go up to {np.abs(signals).max():g}; accepted: [-1, 1]")
    return signals.astype(np.float32)


def _labels(
    labels: np.ndarray | None, n: int, given: tuple[tuple[str, ...], ...] | None, spec: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Class numbers int64 [n], and the classes' names."""
    names = None if given is None else tuple(text for texts in given for text in texts)
    if labels is None:
        return None, names or ()
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape == (n,) and labels.dtype.kind == "U" and names is None:
        numbers, found = numbered([text or None for text in labels.tolist()], by_value=False)
        return np.array(numbers), found
    if labels.dtype.kind not in "iu" or labels.shape != (n,) or labels.min() < -1 or labels.max() >= 2**31:
        hint = "; of one-hot labels save labels.argmax(1)" if labels.ndim == 2 and len(labels) == n else ""
        raise InputError(
            f"data.source: {spec}: labels is {labels.dtype} {list(labels.shape)}; accepted: integers [{n}], -1 or more"
            f"{hint}"
        )
    if names is not None:
        if len(names) <= labels.max():
            raise InputError(f"data.source: {spec}: class_names has {len(names)} names; labels go up to {labels.max()}")
        return labels.astype(np.int64), names
    numbers, found = numbered([None if k < 0 else k for k in labels.tolist()], by_value=True)
    if found and int(found[-1]) != len(found) - 1:
        log.warning(
            "%s: labels %s to %s are %d classes, called by these numbers", spec, found[0], found[-1], len(found)
        )
    return np.array(numbers), found


def _strings(strings: np.ndarray | None, name: str, n: int | None, spec: str) -> tuple[tuple[str, ...], ...] | None:
    """A tuple of the texts of each row, without the empty ones."""
    if strings is None:
        return None
    ranks = (1,) if n is None else (1, 2)
    if strings.dtype.kind != "U" or strings.ndim not in ranks or (n is not None and len(strings) != n):
        was = f"{strings.dtype} {list(strings.shape)}"
        accepted = "strings [k]" if n is None else f"strings [{n}] or [{n} m]"
        raise InputError(f"data.source: {spec}: {name} is {was}; accepted: {accepted}")
    rows = strings[:, None] if strings.ndim == 1 else strings
    return tuple(tuple(dict.fromkeys(text for text in row if text)) for row in rows.tolist())
