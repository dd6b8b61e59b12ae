"""Files out: checked before anything is computed, whole or not there at all afterwards."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ldm_jax.errors import InputError

UNFINISHED = ".tmp"
"""Ending of a file that is still being written."""


def check_file(path: Path, endings: Sequence[str], *, overwrite: bool, field: str = "out") -> None:
    """InputError where a file can't be written, or is there already and `overwrite` is not given.

    Nothing is left behind: folders that are missing are made when the file is written.
    """
    if path.suffix not in endings:
        raise InputError(f"{field}: {path} must end in {' or '.join(endings)}")
    _check_writable(path.parent, path.name, field)
    if path.is_dir():
        raise InputError(f"{field}: {path} is a folder; name a file with this ending")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{field}: {path} exists; name another file, or add --overwrite to replace it")


def check_folder(path: Path, *, field: str = "out") -> None:
    """InputError where a folder can't be made or written into; nothing is left behind."""
    _check_writable(path, "", field)


def check_room(path: Path, size: int, *, field: str = "out") -> None:
    """InputError where the disk has less than about `size` bytes left for what goes to `path`."""
    free = shutil.disk_usage(_existing(path)).free
    if free < size:
        raise InputError(f"{field}: {path} needs about {megabytes(size)}, {megabytes(free)} are free")


def megabytes(size: int) -> str:
    """A number of bytes as people say it: "12 MB", "0.3 MB"."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its name at the end and is removed after an error.

    Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + UNFINISHED)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # Of a write that fails Python doesn't tell the file.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_all(file: io.FileIO, data: bytes) -> None:
    """Writes to an unbuffered file; OSError where the disk takes a part alone."""
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def mapped_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file as a memory map, all of whose bytes the disk has set aside.

    A map of a file with holes would end the process by a signal, without a word, where the disk has no room for them.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise OSError(error.errno, error.strerror, str(path)) from error
    return array


def _existing(path: Path) -> Path:
    """The nearest of `path` and the folders above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _check_writable(folder: Path, name: str, field: str) -> None:
    try:
        place = _existing(folder)
        if not place.is_dir():
            raise InputError(f"{field}: {folder} can't be written ({place} is a file)")
        # A name that is too long, or a folder that only looks writable, shows when a file is made.
        with tempfile.NamedTemporaryFile(dir=place, prefix=name, suffix=UNFINISHED):
            pass
        for part in (folder.absolute().relative_to(place)).parts:
            with tempfile.NamedTemporaryFile(dir=place, prefix=part):
                pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{field}: {folder} can't be written ({reason})") from error
