"""Networks with their weights: feature spaces, ready for batches on all devices, and LPIPS."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import metrics
from ldm_jax.errors import InputError
from ldm_jax.evaluation.numbers import LPIPS, SPACES
from ldm_jax.metrics.extraction import Extract
from ldm_jax.models import apply

NETWORKS = (*(space for space in SPACES if space != "pixels"), *(network for network, _ in LPIPS.values()))
"""Whose weights can be named."""


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """`extract` takes images uint8 [b h w c] with c 1 or 3."""

    name: str
    extract: Extract
    weights_hash: str

    def described(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"name": SPACES[self.name], "weights_hash": self.weights_hash}


def open_spaces(names: Collection[str], weights: Mapping[str, str], batch_size: int) -> dict[str, Space]:
    """The spaces by name; `weights` has files for those whose weights don't come with a package.

    Raises:
      InputError: a file is missing or of another architecture, or `weights` names a network that there is not.
    """
    for name in weights:
        if name not in NETWORKS:
            raise InputError(f"weights: {name!r} must be one of {', '.join(NETWORKS)}")
    spaces = {}
    for name in sorted(names):
        if name == "pixels":
            spaces[name] = Space(name, metrics.pixels(), "none")
            continue
        from ldm_jax.pretrained.features import open_features

        opened = open_features(name, weights_path(name, weights))
        spaces[name] = Space(name, metrics.sharded(opened.extract, batch_size), opened.weights_hash)
    return spaces


def weights_path(name: str, weights: Mapping[str, str]) -> Path | None:
    """Where the weights of a network are: as told, or as $LDM_JAX_WEIGHTS_NAME says; None for the package's own."""
    path = weights.get(name) or os.environ.get(f"LDM_JAX_WEIGHTS_{name.upper()}")
    return None if path is None else Path(path)


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """LPIPS: (originals, others), grey levels [b h w c] with c 1 or 3, to distances [b]."""

    label: str
    weights_hash: str
    distance: Callable[[jax.Array, jax.Array], jax.Array]

    def described(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"name": self.label, "weights_hash": self.weights_hash}


def open_comparisons(names: Collection[str], weights: Mapping[str, str]) -> dict[str, Comparison]:
    """LPIPS's variants among the metrics `names`.

    Raises:
      InputError: weights are missing or of another architecture.
    """
    from ldm_jax.pretrained import load_lpips

    comparisons = {}
    for name in sorted(set(names) & set(LPIPS)):
        network, label = LPIPS[name]
        module, params = load_lpips(network, weights_path(network, weights))
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(params):
            digest.update(np.asarray(leaf).tobytes())

        distance = jax.jit(partial(_distance, module))
        comparisons[name] = Comparison(label, digest.hexdigest(), partial(distance, jax.device_put(params)))
    return comparisons


def _distance(module: nn.Module, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    # It is a network of colour images; grey ones are three equal channels.
    x, y = (jnp.broadcast_to(a, (*a.shape[:-1], 3)) / 127.5 - 1.0 for a in (x, y))
    return apply(module, params, x, y)
