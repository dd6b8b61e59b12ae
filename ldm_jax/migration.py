"""What ldm_jax 0.1 called things: old config.json files and old options, as this version has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_jax.errors import InputError
from ldm_jax.pipeline.migration import renewed_process, renewed_sampling

Given = tuple[str, Sequence[str]]
"""An option: its dotted name and the words typed after it."""

OPTIMIZER = {"beta1": "beta1", "beta2": "beta2", "weight_decay": "weight_decay"}
MOVED = (
    ("autoencoder_training.final_learning_rate", "stages.autoencoder.decay.final"),
    ("denoiser_training.final_learning_rate", "stages.denoiser.decay.final"),
    *((f"autoencoder_training.{a}", f"stages.autoencoder.optimizer.{b}") for a, b in OPTIMIZER.items()),
    *((f"denoiser_training.{a}", f"stages.denoiser.optimizer.{b}") for a, b in OPTIMIZER.items()),
    ("autoencoder_training", "stages.autoencoder"),
    ("denoiser_training", "stages.denoiser"),
    ("autoencoder_loss", "stages.autoencoder.loss"),
    ("discriminator", "stages.autoencoder.discriminator"),
    ("adapter", "stages.denoiser.adapter"),
    ("prior", "stages.denoiser.prior"),
    ("embedding", "stages.denoiser.embedding"),
    ("diffusion.label_dropout", "conditions.label.dropout"),
    ("diffusion.times_mean", "process.times.mean"),
    ("diffusion.times_std", "process.times.std"),
    ("diffusion", "process"),
    ("sampling.interval", "sampling.rule.interval"),
)
"""Where an option of 0.1 is now; the first that matches counts. These short names stay understood."""


def renewed_options(given: Sequence[Given]) -> list[Given]:
    """Options under their current names; `--autoencoder-from PATH` is short for two."""
    new: list[Given] = []
    for name, words in given:
        plain = name.replace("-", "_")
        if plain in ("autoencoder_from", "denoiser_from"):
            part = plain.removesuffix("_from")
            new += [(part, ["pretrained"]), (f"{part}.path", words)]
            if part == "denoiser" and not any(other == "stages" for other, _ in given):
                # A whole pipeline brings its autoencoder, which stays as it is.
                new.append(("stages", ["denoiser"]))
        elif plain == "autoencoder_trains":
            new.append(("stages", ["denoiser"]) if list(words) == ["nothing"] else ("stages.autoencoder.trains", words))
        else:
            new.append((_moved(plain, name), words))
    return new


def _moved(plain: str, name: str) -> str:
    for old, now in MOVED:
        if plain == old or plain.startswith(f"{old}."):
            return now + plain.removeprefix(old)
    return name


def renewed_config(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json in the current format."""
    if "format" in tree:
        if tree["format"] != 2:
            raise InputError(f"config: format {tree['format']!r} is newer than this ldm_jax; update it")
        return {name: value for name, value in tree.items() if name != "format"}
    old = {"autoencoder_training", "denoiser_training", "autoencoder_loss", "discriminator", "diffusion"}
    old |= {"autoencoder_from", "autoencoder_trains"}
    if not old & tree.keys() and not (isinstance(tree.get("sampling"), dict) and "interval" in tree["sampling"]):
        return dict(tree)
    for name in ("autoencoder_training", "denoiser_training", "diffusion", "autoencoder_loss", "discriminator"):
        if not isinstance(tree.get(name, {}), dict):
            raise InputError(f"{name}: {tree[name]!r} must be an object of fields")
    new = {name: value for name, value in tree.items() if name not in old}
    if tree.get("autoencoder_from"):
        new["autoencoder"] = {"type": "Pretrained", "path": tree["autoencoder_from"]}
    first = _training(tree.get("autoencoder_training", {})) | {"type": "AutoencoderTraining"}
    trains = tree.get("autoencoder_trains", "all")
    first |= {"loss": tree.get("autoencoder_loss", {}), "discriminator": tree.get("discriminator", {})}
    stages = [] if trains == "nothing" else [first | {"trains": trains}]
    new["stages"] = [*stages, _training(tree.get("denoiser_training", {})) | {"type": "DenoiserTraining"}]
    diffusion = tree.get("diffusion", {})
    new["process"] = renewed_process(diffusion)
    denoiser = tree.get("denoiser", {})
    if isinstance(denoiser, dict) and denoiser.get("type") == "UNetConfig":
        # Training always set the time's scale, whatever stood there; two fields were those of published files alone.
        gone = ("linear_projection", "upcast_attention")
        denoiser = {name: value for name, value in denoiser.items() if name not in gone} | {"time_scale": 1000.0}
        new["denoiser"] = denoiser
    labelled = isinstance(denoiser, dict) and denoiser.get("num_classes", 0) != 0
    label = {"type": "Label", "dropout": diffusion.get("label_dropout", 0.1)}
    new["conditions"] = [label] if labelled else []
    if isinstance(tree.get("sampling"), dict):
        new["sampling"] = renewed_sampling(tree["sampling"])
    return new


def _training(old: Mapping[str, Any]) -> dict[str, Any]:
    """0.1's section of a stage: AdamW's fields and the last learning rate have moved into their own sections."""
    moved = {*OPTIMIZER, "final_learning_rate"}
    new: dict[str, Any] = {name: value for name, value in old.items() if name not in moved}
    rule = {now: old[name] for name, now in OPTIMIZER.items() if name in old}
    if rule:
        new["optimizer"] = {"type": "AdamW", **rule}
    if "final_learning_rate" in old:
        new["decay"] = {"type": "CosineDecay", "final": old["final_learning_rate"]}
    return new
