"""What LoRA files call their tensors, and how strong they say that their changes are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ldm_jax.errors import InputError
from ldm_jax.pretrained.folders import open_file
from ldm_jax.pretrained.tensors import Tensors, json_object, read_json

DENOISERS = ("unet", "transformer")
KOHYA = {
    "lora_unet_": "unet",
    "lora_transformer_": "transformer",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_te_": "text_encoder",
}
"""kohya's prefixes, and the folders that diffusers has these networks in."""
PREFIXES = {f"{part}.": part for part in (*DENOISERS, "text_encoder_3", "text_encoder_2", "text_encoder")}
PREFIXES |= {"model.diffusion_model.": "unet", "diffusion_model.": "unet"}
WRAPPERS = ("base_model.model.",)
"""PEFT's, around names that say nothing of the network."""
HALVES = re.compile(
    r"(?P<owner>.+?)(?:"
    r"\.lora_(?P<peft>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
    r"|[._]lora(?:_linear_layer)?[._](?P<half>down|up)\.weight"
    r"|\.(?P<alpha>alpha))"
)
"""PEFT's (with the adapter's name or without), diffusers' older ones and kohya's."""
FILES = ("pytorch_lora_weights", "adapter_model")
"""What diffusers and PEFT call a folder's file of adapters."""


class Named(NamedTuple):
    """What a tensor's name says."""

    part: str | None
    """The network's folder; None where the name doesn't tell."""
    owner: str
    """The published module, or kohya's spelling of it."""
    half: Literal["down", "up", "alpha"]


def named(name: str) -> Named | None:
    """Of one tensor's name; None where it is none of a LoRA."""
    found = HALVES.fullmatch(name)
    if found is None:
        return None
    half = found["half"] or found["alpha"] or {"A": "down", "B": "up"}[found["peft"]]
    part, owner = split_part(found["owner"])
    return Named(part, _today(owner), half)  # type: ignore[arg-type]


def split_part(owner: str) -> tuple[str | None, str]:
    """A module's name without the prefixes that say of which network it is, and that network."""
    part = None
    while True:
        prefix = next((p for p in (*KOHYA, *PREFIXES, *WRAPPERS) if owner.startswith(p)), None)
        if prefix is None:
            break
        part, owner = part or KOHYA.get(prefix) or PREFIXES.get(prefix), owner.removeprefix(prefix)
    if part is None and owner.startswith("text_model."):
        part = "text_encoder"
    return part, owner


def _today(owner: str) -> str:
    """diffusers before 0.21 hung LoRA on attention processors; text encoders' were called as the UNet's."""
    owner = owner.replace(".processor.", ".")
    if ".self_attn." in owner:
        return re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", owner)
    return re.sub(r"\.to_out$", ".to_out.0", owner)


class LoraFile(NamedTuple):
    """A file of adapters, and what is said of their strength beside its tensors."""

    path: Path
    tensors: Tensors
    settings: Mapping[str, Mapping[str, Any]]
    """PEFT's settings by part; under the empty name those of parts without any of their own."""

    def scale(self, part: str, owner: str, rank: int, alpha: float | None) -> float:
        """What a product of rank r is multiplied by: alpha / r, or alpha / sqrt(r) where the settings say so.

        alpha: that of a tensor, which comes before the settings; 1 where nothing tells.
        """
        if alpha is not None:
            return alpha / rank
        names = (part, *DENOISERS, "") if part in ("", *DENOISERS) else (part, "")
        settings = next((self.settings[name] for name in names if name in self.settings), {})
        if "lora_alpha" not in settings:
            return 1.0
        patterns = settings.get("alpha_pattern") or {}
        said: float = next((a for key, a in patterns.items() if _matches(key, owner)), settings["lora_alpha"])
        return float(said) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _matches(key: str, owner: str) -> bool:
    """Whether a key of PEFT's patterns, a regular expression of a name's end, is a module's."""
    try:
        return re.fullmatch(rf"(.*\.)?({key})", owner) is not None
    except re.error:
        return owner.endswith(key)


def open_lora(path: str | Path) -> LoraFile:
    """A file of adapters, or a folder that diffusers or PEFT wrote."""
    path = Path(path)
    if path.is_dir():
        found = [path / f"{stem}.{end}" for end in ("safetensors", "bin") for stem in FILES]
        found = [file for file in found if file.is_file()] or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise InputError(f"lora: {path} must hold one file, {FILES[0]}.safetensors or {FILES[1]}.safetensors")
        path = found[0]
    if not path.is_file():
        raise InputError(f"lora: {path} is not a file")
    tensors = open_file(path)
    beside = path.parent / "adapter_config.json"
    settings = {"": _checked(read_json(beside), beside)} if beside.is_file() else {}
    text = getattr(tensors, "metadata", {}).get("lora_adapter_metadata")
    if isinstance(text, str):
        settings |= _by_part(json_object(text.encode(), path), path)
    return LoraFile(path, tensors, settings)


def _by_part(record: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """diffusers' metadata: PEFT's settings under names such as unet.lora_alpha."""
    parts: dict[str, dict[str, Any]] = {}
    for key, value in record.items():
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
        parts.setdefault(PREFIXES.get(prefix, ""), {})[key.removeprefix(prefix)] = value
    return {part: _checked(settings, path) for part, settings in parts.items()}


def _checked(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise InputError(f"lora: {path}: alpha_pattern {patterns!r} must be an object")
    for alpha in (*patterns.values(), settings.get("lora_alpha", 1)):
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise InputError(f"lora: {path}: alpha {alpha!r} must be a number")
    if settings.get("use_dora"):
        raise InputError(f"lora: {path} is a DoRA (use_dora), which is not known here")
    return settings
