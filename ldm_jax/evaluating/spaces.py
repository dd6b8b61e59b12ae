"""Feature spaces: networks with their weights, ready for batches on all devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ldm_jax import evaluation
from ldm_jax.errors import InputError
from ldm_jax.evaluating.metrics import SPACES
from ldm_jax.evaluation.extraction import Extract


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """`extract` takes images uint8 [b h w c] with c 1 or 3."""

    name: str
    extract: Extract
    weights_hash: str

    def described(self) -> dict[str, Any]:
        return {"name": SPACES[self.name], "weights_hash": self.weights_hash}


def open_spaces(names: Collection[str], weights: Mapping[str, str], batch_size: int) -> dict[str, Space]:
    """The spaces by name; `weights` has files for those whose weights don't come with a package.

    Raises:
      InputError: a file is missing or of another architecture, or `weights` names a space that there is not.
    """
    for name in weights:
        if name not in SPACES or name == "pixels":
            known = ", ".join(space for space in SPACES if space != "pixels")
            raise InputError(f"weights: {name!r} must be one of {known}")
    spaces = {}
    for name in sorted(names):
        if name == "pixels":
            spaces[name] = Space(name, evaluation.pixels(), "none")
            continue
        from ldm_jax.pretrained.features import open_features

        path = weights.get(name)
        opened = open_features(name, None if path is None else Path(path))
        spaces[name] = Space(name, evaluation.sharded(opened.extract, batch_size), opened.weights_hash)
    return spaces
