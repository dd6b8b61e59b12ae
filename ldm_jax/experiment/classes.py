"""The classes of a data set as those of a model that is trained on."""

from __future__ import annotations

import logging

import jax

from ldm_jax.conditions import LabelCondition
from ldm_jax.conditions.classes import class_places
from ldm_jax.data import Renumbered, Source
from ldm_jax.errors import InputError
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.pipeline.extending import with_classes
from ldm_jax.stages import DenoiserTraining

log = logging.getLogger("ldm_jax")


def taught(model: LatentDiffusion, source: Source, spec: str, training: DenoiserTraining) -> LatentDiffusion:
    """The model with the classes of the data that it does not know, which are trained from here on.

    spec: the data's name. InputError where what is trained can't add classes.
    """
    label = model.condition(LabelCondition)
    if label is None or not source.class_names:
        return model
    places, new = class_places(source.class_names, label.class_names)
    if jax.process_index() == 0 and (new or places != list(range(label.num_classes))):
        more = f", new: {', '.join(f'{name} ({label.num_classes + i})' for i, name in enumerate(new))}" if new else ""
        log.info("%s: %d of the denoiser's %d classes%s", spec, len(set(places)) - len(new), label.num_classes, more)
    if not new:
        return model
    fixed = "adapter" if training.adapter is not None else "trains" if training.trains != "all" else None
    if fixed is not None:
        raise InputError(
            f"data.source: {spec} has classes that the denoiser does not know ({', '.join(new[:5])}); only training it "
            f"whole adds them: leave out stages.denoiser.{fixed}"
        )
    return with_classes(model, new)


def renumbered(source: Source, names: tuple[str, ...]) -> Source:
    """The data with the class numbers of a model that knows `names`; a class that isn't among them is no label."""
    if not source.class_names or tuple(source.class_names) == names:
        return source
    places, _ = class_places(source.class_names, names)
    return Renumbered(source, [place if place < len(names) else -1 for place in places], names)
