"""Sets of images, as an evaluation sees them: uint8, of one size, read batch by batch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ldm_jax import metrics
from ldm_jax.data import Loader, Subset, evenly, open_source, prepare, to_uint8
from ldm_jax.data.decoding import decode, header
from ldm_jax.errors import InputError
from ldm_jax.images import floating

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """`count` images uint8 [h w c] of one shape."""

    name: str
    shape: tuple[int, int, int]
    count: int
    preparation: str
    """How the images became this size and type, in words."""
    read: Callable[[Sequence[int]], np.ndarray]
    """Positions to images uint8 [n h w c]."""
    stream: Callable[[int], Iterator[np.ndarray]]
    """Batch size to all images in order; the last batch may be shorter."""
    captions: Callable[[Sequence[int]], list[str]] | None = None


class Hashed:
    """Passes batches on and hashes their bytes: sha256 over the shape of an image, then all pixels in order."""

    def __init__(self, batches: Iterable[Any], shape: tuple[int, int, int]):
        self._batches, self._hash = batches, hashlib.sha256(repr(shape).encode())

    def __iter__(self) -> Iterator[np.ndarray]:
        for batch in self._batches:
            self._hash.update(batch.tobytes())
            yield batch

    def hexdigest(self) -> str:
        """sha256 of what was read so far."""
        return self._hash.hexdigest()


def source_set(spec: str, split: str, size: int, channels: int, limit: int | None) -> ImageSet:
    """The images of a data source, prepared as training prepares them; about the first `limit`, evenly over it."""
    source = open_source(spec, split)
    if limit is not None and limit < len(source):
        source = Subset.evenly(source, limit)
    loader = Loader(source, batch_size=1, image_size=size, channels=channels, seed=0)

    def stream(batch_size: int) -> Iterator[np.ndarray]:
        for _, images, valid in loader.in_order(batch_size):
            yield to_uint8(images[:valid])

    return ImageSet(
        name=f"{spec} ({split})",
        shape=(size, size, channels),
        count=len(source),
        preparation=f"central square at {size} px, box and antialiased bicubic filter, {channels} channels",
        read=lambda places: np.stack([prepare(source[int(i)].image, size, channels) for i in places]),
        stream=stream,
        captions=lambda places: [source[int(i)].caption for i in places],
    )


def npz_set(path: Path, rounding: str) -> ImageSet:
    """arr_0 of an .npz: uint8 [n h w c], or floats in [-1, 1], which `rounding` makes grey levels.

    Raises:
      InputError: there is no such array, or its type, shape or values are others.
    """
    with metrics.open_npz(path) as file:
        if "arr_0" not in file:
            raise InputError(f"{path}: has no arr_0 (it has {', '.join(file.files)}); it holds no images")
        try:
            images = file["arr_0"]
        except ValueError as error:
            raise InputError(f"{path}: arr_0 can't be read ({' '.join(str(error).split())})") from error
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"{path}: arr_0 has shape {list(images.shape)}; accepted: [n h w c] with c 1 or 3, not empty")
    preparation = "none, 8-bit images"
    if images.dtype != np.uint8:
        images = _grey_levels(images, rounding, f"{path}: arr_0")
        preparation = f"floats in [-1, 1] to 8 bits by {rounding}"
    return array_set(images, str(path), preparation)


def array_set(images: UInt8[np.ndarray, "n h w c"], name: str, preparation: str = "none, 8-bit images") -> ImageSet:
    """Images in memory."""
    n, h, w, c = images.shape
    return ImageSet(
        name=name,
        shape=(h, w, c),
        count=n,
        preparation=preparation,
        read=lambda places: images[np.asarray(places, np.int64)],
        stream=lambda batch_size: (images[i : i + batch_size] for i in range(0, n, batch_size)),
    )


def folder_set(path: Path) -> ImageSet:
    """The pictures of a folder (not its sub-folders) in the order of their names, all of one size, read as training
    reads them (`data.decoding`).

    Raises:
      InputError: there is none, one can't be read, or their sizes differ.
    """
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
    if not files:
        raise InputError(f"samples: {path} holds no pictures ({', '.join(ENDINGS)})")
    shape = _opened(decode, files[0]).shape

    def check(file: Path, found: tuple[int, ...]) -> None:
        if found != shape:
            raise InputError(f"samples: {file} is {_text(found)}, the first picture {_text(shape)}")

    # From the headers first, for reading all takes long; a file that keeps its orientation for later is caught then.
    for file in files[1:]:
        check(file, _opened(header, file))

    def picture(file: Path) -> np.ndarray:
        pixels = _opened(decode, file)
        check(file, pixels.shape)
        return pixels

    def read(places: Sequence[int]) -> np.ndarray:
        return np.stack([picture(files[i]) for i in places])

    def stream(batch_size: int) -> Iterator[np.ndarray]:
        for begin in range(0, len(files), batch_size):
            yield read(range(begin, min(begin + batch_size, len(files))))

    return ImageSet(str(path), shape, len(files), "none, 8-bit pictures", read, stream)


def first_images(images: ImageSet, count: int | None) -> ImageSet:
    """The first `count` images of a set (all, where None)."""
    if count is None or count >= images.count:
        return images

    def stream(batch_size: int) -> Iterator[np.ndarray]:
        left = count
        for batch in images.stream(batch_size):
            yield batch[:left]
            left -= len(batch)
            if left <= 0:
                return

    return dataclasses.replace(images, count=count, stream=stream)


def spread_images(images: ImageSet, count: int) -> ImageSet:
    """`count` images spread evenly over a set (all, where it has no more): a folder's begin with its first class."""
    if count >= images.count:
        return images
    places = evenly(images.count, count).tolist()
    return dataclasses.replace(
        images,
        count=count,
        read=lambda chosen: images.read([places[i] for i in chosen]),
        stream=lambda size: (images.read(places[i : i + size]) for i in range(0, count, size)),
    )


def _opened(how: Callable[[Path], Any], path: Path) -> Any:
    """how(path), and InputError where it can't be read."""
    try:
        return how(path)
    except Exception as error:  # Pillow's decoders raise nearly every kind of error on broken data
        raise InputError(f"samples: {path} can't be read ({' '.join(str(error).split())})") from error


def _grey_levels(images: Any, rounding: str, what: str) -> np.ndarray:
    if not floating(images.dtype):
        raise InputError(f"{what} is {images.dtype}; accepted: uint8, or floats in [-1, 1]")
    check_finite(images, what)
    low, high = float(images.min()), float(images.max())
    if max(-low, high) > 1 + 1e-3:
        raise InputError(f"{what} goes from {low:.4g} to {high:.4g}; floats must lie in [-1, 1]")
    if low >= 0:
        # A whole set without one pixel darker than grey: they lie in [0, 1], and would be measured washed out.
        raise InputError(f"{what} goes from {low:.4g} to {high:.4g}, as if 0 were black; give 2 x - 1, or uint8")
    return np.asarray(metrics.to_uint8(np.asarray(images, np.float32), rounding))  # type: ignore[arg-type]


def check_finite(images: np.ndarray, what: str) -> None:
    """InputError where an image holds NaN or infinite values."""
    good = int(np.isfinite(images).all(axis=(1, 2, 3)).sum())
    if good < len(images):
        raise InputError(f"{what}: {len(images) - good} of {len(images)} images hold NaN or infinite values")


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
