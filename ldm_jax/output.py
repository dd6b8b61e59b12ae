"""Where drawn images go: a PNG grid, an .npz, or a folder of PNGs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ldm_jax import images
from ldm_jax.errors import InputError


def check_output(path: Path) -> None:
    """InputError where nothing could be written at `path`; asked before anything is computed."""
    if path.suffix not in (".png", ".npz", ""):
        raise InputError(f"out: {path} must end in .png or .npz, or name a folder")
    if path.suffix and path.is_dir():
        raise InputError(f"out: {path} is a folder; name a file or a folder without an ending")
    folder = path.parent if path.suffix else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {folder} can't be written ({error.strerror})") from error


def write_output(path: Path, drawn: UInt8[np.ndarray, "n h w c"], labels: Sequence[int] | None, columns: int) -> Path:
    """Writes the images and returns the path.

    .png: one grid. .npz: arr_0 uint8 [n h w c] and, with labels, label [n]. A folder: 000000.png and on.
    """
    if path.suffix == ".png":
        images.write_png(path, images.grid(drawn, min(columns, len(drawn))))
    elif path.suffix == ".npz":
        temporary = path.with_suffix(".tmp.npz")
        if labels is None:
            np.savez_compressed(temporary, arr_0=drawn)
        else:
            np.savez_compressed(temporary, arr_0=drawn, label=np.asarray(labels, np.int32))
        temporary.replace(path)
    else:
        for i, image in enumerate(drawn):
            images.write_png(path / f"{i:06d}.png", image)
    return path
