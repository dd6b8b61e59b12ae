"""Manifests: what a cache was made of, and whether it still is what is wanted."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.errors import InputError


class Unusable(InputError):
    """Why a cache can't be used; `field` is the first entry that differs."""

    def __init__(self, folder: Path, field: str, reason: str):
        super().__init__(f"{folder.name}: {folder} {reason}; remove it or name another folder to encode anew")
        self.field, self.reason = field, reason


def read_manifest(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a finished cache, which must say all that `wanted` says.

    Raises:
      Unusable: something differs, which the message names.
      FileNotFoundError: there is no finished cache.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except ValueError as error:
        raise Unusable(folder, "manifest", "its manifest.json is not JSON") from error
    known = manifest if isinstance(manifest, dict) else {}
    for name, stored, now in _differences({key: known.get(key) for key in wanted}, wanted):
        raise Unusable(folder, name, f"was made with {name} {_short(stored)}, which is {_short(now)} now")
    return manifest


def weights_hash(params: Any) -> str:
    """SHA-256 over every array's path, type, shape and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _differences(stored: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, stored, wanted) of everything that is not the same, in wanted's order."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in {**wanted, **stored}:
            yield from _differences(stored.get(key), wanted.get(key), f"{name}.{key}".strip("."))
    elif stored != wanted:
        yield name, stored, wanted


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:20]}..."


def version() -> str:
    """What wrote a cache."""
    try:
        return f"ldm_jax {importlib.metadata.version('ldm-jax')}"
    except importlib.metadata.PackageNotFoundError:
        return "ldm_jax, not installed"


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, but not of who wrote it."""
    said = {key: value for key, value in manifest.items() if key != "created_by"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
