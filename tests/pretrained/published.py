"""Published models rebuilt without PyTorch: config, names and shapes from a reference, weights from the names."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ROOM = Path(__file__).parent.parent / "reference"
NAMES = sorted(path.stem for path in (ROOM / "networks").glob("*.npz"))


@functools.cache
def script() -> Any:
    """The script that made the references, for the weights that each name gives."""
    spec = importlib.util.spec_from_file_location("reference_networks", ROOM / "networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    """The inputs and outputs of a reference."""
    with np.load(ROOM / "networks" / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def description(name: str) -> dict[str, Any]:
    """config, shapes and file name of a reference."""
    return json.loads(str(reference(name)["json"]))


@functools.cache
def tensors(name: str) -> dict[str, np.ndarray]:
    """The tensors as the published library saves them."""
    data = reference(name)
    return {
        key: data[f"tensor/{key}"] if f"tensor/{key}" in data else script().weights(script().tied(key), tuple(shape))
        for key, shape in description(name)["shapes"].items()
    }


def write(name: str, folder: Path, **config: Any) -> Path:
    """A component folder as the published library writes it; config overrides some of its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(name), folder / description(name)["file"], metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(description(name)["config"] | config))
    return folder
