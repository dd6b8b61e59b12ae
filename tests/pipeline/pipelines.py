"""Published pipelines rebuilt without PyTorch, from tests/reference/pipelines.npz."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from ldm_jax.models import Conditioning

ROOM = Path(__file__).parent.parent / "reference"


@functools.cache
def script(name: str = "pipelines") -> Any:
    """A script that made references; its own imports lie beside it."""
    sys.path.insert(0, str(ROOM))
    try:
        spec = importlib.util.spec_from_file_location(f"reference_{name}", ROOM / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # The scripts import each other by names that modules of the tests have, too.
        others = {} if name == "pipelines" else {"pipelines": script("pipelines")}
        with mock.patch.dict(sys.modules, others):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOM))
    return module


@functools.cache
def data() -> dict[str, np.ndarray]:
    """The references, those of uses.py and finetuned.py too."""
    found: dict[str, np.ndarray] = {}
    for name in ("pipelines", "uses", "finetuned"):
        with np.load(ROOM / f"{name}.npz", allow_pickle=False) as file:
            found |= dict(file)
    return found


def write(name: str, folder: Path) -> Path:
    """A pipeline's folder as its repository holds it."""
    record = json.loads(str(data()[f"{name}/json"]))
    folder.mkdir(parents=True, exist_ok=True)
    if name == "dit":
        record["index"]["id2label"] = {str(i): f"thing {i}, stuff" for i in range(1000)}
    (folder / "model_index.json").write_text(json.dumps(record["index"]))
    for part, described in record["parts"].items():
        room = folder / part
        if described == "[PAD]":
            script().bert_files(room)
        elif isinstance(described, str):
            script().tokenizer_files(room, described)
        elif "files" in described:
            room.mkdir()
            for file, text in described["files"].items():
                (room / file).write_text(text)
        elif "shapes" in described:
            room.mkdir()
            save_file(tensors(name, part, described["shapes"]), room / described["file"], {"format": "pt"})
            (room / "config.json").write_text(json.dumps(described["config"]))
        else:
            room.mkdir()
            (room / "scheduler_config.json").write_text(json.dumps(described))
    return folder


def tensors(name: str, part: str, shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """A part's weights: stored where names don't give them."""
    networks = script().networks
    return {
        key: data().get(f"{name}/{part}/{key}", networks.weights(networks.tied(key), tuple(shape)))
        for key, shape in shapes.items()
    }


def arguments(name: str) -> dict[str, Any]:
    """What `LatentDiffusion.sample` is to be told for the image of the reference."""
    module = script()
    channels = 3 if name in ("ldm", "upscale") else 4
    noise = module.latents(channels, 8, 12 if name in ("sdxl", "sd3") else 8)
    told: dict[str, Any] = {"latents": np.moveaxis(noise, 1, -1), "steps": module.STEPS, "compat": "diffusers"}
    if name == "lcm":
        told["steps"] = 1
    if name.startswith("sd") or name in ("ldm_text", "lcm"):
        told |= {"prompts": module.PROMPTS, "guidance": 4.0}
    if name in ("sd2", "sd3"):
        told["negative"] = module.NEGATIVE
    if name == "dit":
        told |= {"labels": [7, 207], "guidance": 4.0}
    if name == "upscale":
        # Normal numbers, which `image=` would refuse: pictures lie in [-1, 1].
        image = np.moveaxis(module.networks.noise("image", (2, 3, 8, 8)), 1, -1)
        told["cond"] = Conditioning(image=jnp.asarray(image))
    return told
