"""Files out: safetensors written one tensor at a time, JSON, each whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.files import whole
from ldm_jax.pretrained.tensors import DTYPES, Info
from ldm_jax.progress import track

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(
    path: Path, tensors: Mapping[str, tuple[Info, Callable[[], np.ndarray]]], metadata: Mapping[str, str]
) -> None:
    """Writes tensors, each made when its turn comes; `path` appears when it is complete."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (info, _) in tensors.items():
        if info.dtype not in NAMES:
            raise InputError(f"model: {name} has type {info.dtype}, which safetensors files don't hold")
        start, end = end, end + math.prod(info.shape) * info.dtype.itemsize
        header[name] = {"dtype": NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    with whole(path) as temporary, temporary.open("wb") as file:
        file.write(len(data).to_bytes(8, "little"))
        file.write(data)
        for _, make in track(tensors.values(), "writing", len(tensors), "array"):
            # Not `tofile`, whose error does not tell that the disk is full.
            file.write(np.ascontiguousarray(make()).reshape(-1).view(np.uint8).data)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes an object; `path` appears when it is complete."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file; `path` appears when it is complete."""
    with whole(path) as temporary:
        temporary.write_bytes(data)
