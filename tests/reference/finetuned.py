"""What diffusers and peft make of the folders and LoRA files that `train.py` writes.

Runs in an environment with PyTorch (CPU), diffusers, transformers and peft; nothing here is imported by the library.

    python tests/reference/finetuned.py make                            writes tests/reference/finetuned.npz
    python tests/reference/finetuned.py check NAME FOLDER DRAWN [LORA]  opens FOLDER (and LORA) with diffusers, draws
                                                                        from the same noise, compares with DRAWN

NAME is sd15, sdxl or sd3; DRAWN an .npz whose `image` [2 h w 3] in [0, 1] ours drew for what `pipelines.draw` asks
(`pytest -m slow tests/experiment/test_finetuning.py` with LDM_JAX_TORCH_PYTHON does all of it). The stored references
are the images that diffusers draws with LoRA files of every style that people have, whose tensors follow from their
names: an ordinary test compares ours.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pipelines
from safetensors.numpy import save_file

HERE = Path(__file__).parent
RANK = 4
STYLES = (
    ("sd15", "peft"),
    ("sd15", "metadata"),
    ("sd15", "rslora"),
    ("sd15", "linear_layer"),
    ("sd15", "processor"),
    ("sd15", "kohya"),
    ("sdxl", "kohya"),
    ("sd3", "peft"),
)
"""Pipelines and the styles of the LoRA files."""
DENOISER = r".*\.attn\d?\.(to_[qkv]|to_out\.0)\.weight"
TEXT = r".*\.self_attn\.(q|k|v|out)_proj\.weight"
OLD = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def targets(parts: dict[str, Any]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Of a pipeline's parts (those of its reference), the modules that have a LoRA and their kernels' shapes."""
    found = {}
    for part, described in parts.items():
        if "shapes" in described and part != "vae":
            pattern = TEXT if part.startswith("text") else DENOISER
            shapes = {key.removeprefix("text_model."): tuple(shape) for key, shape in described["shapes"].items()}
            found[part] = {
                ("text_model." if part.startswith("text") else "") + key.removesuffix(".weight"): shape
                for key, shape in sorted(shapes.items())
                if re.fullmatch(pattern, key)
            }
    return found


def halves(part: str, module: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """[r in] and [out r], as large as those of a trained LoRA."""
    down = networks.weights(f"{part}.{module}.down", (RANK, shape[1]))
    return down, 0.4 * networks.weights(f"{part}.{module}.up", (shape[0], RANK))


def spelled(style: str, part: str, module: str) -> tuple[str, str]:
    """The names of both halves."""
    text = part.startswith("text")
    if style == "kohya":
        prefix = {"unet": "lora_unet", "text_encoder_2": "lora_te2"}.get(part, "lora_te")
        owner = f"{prefix}_{module.replace('.', '_')}"
        return f"{owner}.lora_down.weight", f"{owner}.lora_up.weight"
    if style == "linear_layer":
        inner = "lora_linear_layer" if text else "lora"
        return f"{part}.{module}.{inner}.down.weight", f"{part}.{module}.{inner}.up.weight"
    if style == "processor":
        parent, _, last = module.removesuffix(".0").rpartition(".")
        owner = f"{parent}.{OLD[last]}" if text else f"{parent}.processor.{last}"
        return f"{part}.{owner}_lora.down.weight", f"{part}.{owner}_lora.up.weight"
    return f"{part}.{module}.lora_A.weight", f"{part}.{module}.lora_B.weight"


def lora(style: str, parts: dict[str, Any], path: Path) -> Path:
    """Writes the LoRA file of a style."""
    tensors: dict[str, np.ndarray] = {}
    metadata = {"format": "pt"}
    said: dict[str, Any] = {}
    for part, modules in targets(parts).items():
        # One file for all networks, but for the plainest style.
        if style in ("peft", "rslora") and part.startswith("text"):
            continue
        for module, shape in modules.items():
            down, up = spelled(style, part, module)
            tensors[down], tensors[up] = halves(part, module, shape)
            if style == "kohya":
                tensors[down.removesuffix(".lora_down.weight") + ".alpha"] = np.array(1.5, np.float32)
        # peft is told the modules as transformers 5 has them in memory.
        bare = [module.removeprefix("text_model.") for module in modules]
        config = {"r": RANK, "lora_alpha": 7, "target_modules": bare}
        if style == "metadata":
            pattern = bare[0]
            said |= {f"{part}.{key}": value for key, value in {**config, "alpha_pattern": {pattern: 2}}.items()}
        if style == "rslora":
            said |= {f"{part}.{key}": value for key, value in {**config, "use_rslora": True}.items()}
    if said:
        metadata["lora_adapter_metadata"] = json.dumps(said)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path, metadata)
    return path


def make() -> None:
    data = {}
    with np.load(HERE / "pipelines.npz", allow_pickle=False) as file:
        plain = {name: (json.loads(str(file[f"{name}/json"])), file[f"{name}/image"]) for name, _ in STYLES}
    for name, style in STYLES:
        record, without = plain[name]
        pipeline = pipelines.build(name)
        with tempfile.TemporaryDirectory() as folder:
            path = lora(style, record["parts"], Path(folder) / "pytorch_lora_weights.safetensors")
            pipeline.load_lora_weights(str(path))
        image = pipelines.draw(name, pipeline).astype(np.float32)
        data[f"{name}/{style}"] = image
        print(name, style, f"differs from the plain pipeline by {255 * np.abs(image - without).mean():.2f} / 255")
    path = HERE / "finetuned.npz"
    np.savez_compressed(path, **data)
    print(path.stat().st_size, "bytes")


def check() -> None:
    """Opens what ours wrote, draws, and compares; a LoRA must change the image, too."""
    from diffusers import DiffusionPipeline

    name, folder, drawn, *file = sys.argv[2:]
    without = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3" else {}
    pipeline = DiffusionPipeline.from_pretrained(folder, **without)
    pipeline.set_progress_bar_config(disable=True)
    with np.load(drawn, allow_pickle=False) as held:
        ours = held["image"]
    changed = ""
    if file:
        plain = pipelines.draw(name, pipeline)
        pipeline.load_lora_weights(file[0])
        changed = f", the LoRA changes it by {255 * np.abs(pipelines.draw(name, pipeline) - plain).mean():.2f} / 255"
    theirs = pipelines.draw(name, pipeline)
    mean, largest = 255 * np.abs(theirs - ours).mean(), 255 * np.abs(theirs - ours).max()
    print(f"{name}: {type(pipeline).__name__}, {mean:.5f} / 255 on average, {largest:.5f} / 255 at most{changed}")
    assert mean < 1.0
    assert not file or 255 * np.abs(theirs - plain).mean() > 10 * max(mean, 0.01)


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]]()
