"""What reference/feature_networks.py made, and its pictures and weights."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np

ROOM = Path(__file__).parent / "reference"


@functools.cache
def script():
    """The script that made the references, for its pictures and weights."""
    spec = importlib.util.spec_from_file_location("reference_feature_networks", ROOM / "feature_networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def reference(name):
    with np.load(ROOM / "feature_networks" / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)
