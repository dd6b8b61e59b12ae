"""What ldm_jax 0.1 wrote, as this version has it: one table of moved names for models, configs and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_jax.errors import InputError

BETAS = {"linear": (0.0001, 0.02)}
"""Ends of a table of betas by its kind; (0.00085, 0.012) for the others."""


def renewed_process(old: Mapping[str, Any]) -> dict[str, Any]:
    """The process of 0.1's `diffusion` section, in which every field may be missing."""
    kind = old.get("schedule", "rectified_flow")
    schedules: dict[str, dict[str, Any]] = {"rectified_flow": {"type": "RectifiedFlow"}, "cosine": {"type": "Cosine"}}
    start, end = BETAS.get(kind, (0.00085, 0.012))
    table = {"type": "DiscreteBetas", "kind": kind, "start": start, "end": end}
    normal = {"type": "LogitNormal", "mean": old.get("times_mean", 0.0), "std": old.get("times_std", 1.0)}
    prediction = old.get("prediction", "flow")
    loss = old.get("loss", "flow")
    return {
        "schedule": schedules.get(kind, table),
        "prediction": prediction,
        "times": {"type": "Uniform"} if old.get("times") == "uniform" else normal,
        "loss": None if loss == prediction else loss,
    }


def renewed_sampling(old: Mapping[str, Any]) -> dict[str, Any]:
    """0.1's `sampling` section: the guidance's interval has moved to its rule."""
    new = {name: value for name, value in old.items() if name != "interval"}
    if "interval" in old:
        new["rule"] = {"type": "ClassifierFree", "interval": old["interval"]}
    return new


def renewed_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """A model_index.json of ours in the current format."""
    if "format" in index:
        if index["format"] != 2:
            raise InputError(f"model: format {index['format']!r} is newer than this ldm_jax; update it")
        return dict(index)
    new = {k: v for k, v in index.items() if k not in ("image_size", "diffusion", "class_names")}
    diffusion, names = dict(index["diffusion"]), list(index["class_names"])
    # 0.1 did not write the channels; those of the images are asked of the autoencoder.
    new |= {"shape": [index["image_size"], index["image_size"], 0], "process": renewed_process(diffusion)}
    label = {"type": "LabelCondition", "class_names": names, "dropout": diffusion.get("label_dropout", 0.1)}
    return new | {"sampling": renewed_sampling(index["sampling"]), "conditions": [label] if names else []}
