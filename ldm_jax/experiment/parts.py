"""The parts that an experiment begins with: new ones from their configs, given ones from their folders."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ldm_jax.conditions import Condition, Given, LabelCondition, join, stack
from ldm_jax.config import Config, Pretrained, check_loss
from ldm_jax.data import Loader, Source, Subset, annotation, has_captions, has_pairs, object_names, open_source, summary
from ldm_jax.diffusion.process import Process
from ldm_jax.errors import InputError, told_as
from ldm_jax.experiment.classes import renumbered, taught
from ldm_jax.experiment.prior import check_alike, prior_of, prior_source
from ldm_jax.experiment.workdir import place_of_given
from ldm_jax.models import AUTOENCODERS, Conditioning, make_autoencoder
from ldm_jax.pipeline import LatentDiffusion, load
from ldm_jax.pipeline.layouts import model_folder
from ldm_jax.pretrained.parts import load_part
from ldm_jax.pretrained.single_file import load_single
from ldm_jax.stages import AutoencoderTraining, DenoiserTraining
from ldm_jax.stages.denoiser import conditions_of
from ldm_jax.stages.embedding import with_new_word
from ldm_jax.training.stage import Params

log = logging.getLogger("ldm_jax")


class Base(NamedTuple):
    """What an experiment builds on."""

    autoencoder: Any
    """The module."""
    autoencoder_params: Params
    """None where it is new."""
    model: LatentDiffusion | None
    """A whole model whose denoiser is trained on."""
    denoiser: tuple[Any, Params] | None
    """(module, params) of a given denoiser."""
    places: dict[str, Path]
    """Where the given parts were read from, by name."""
    workdir: Path
    added: tuple[str, ...] = ()
    """Classes of the data that the given denoiser did not know."""

    def place(self, part: str, find: Callable[[], Path]) -> Path:
        """Where a part that a condition is given is read from; the run keeps a copy of it."""
        own = self.workdir / "given" / part
        self.places[part] = own if own.is_dir() else find()
        return self.places[part]


def find_part(path: Path, names: tuple[str, ...], field: str, what: str) -> Path:
    """The folder of a part: below a model's folder, a run's, or the folder itself."""
    places = [path / room / name for room in ("", "model") for name in names] + [path]
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None:
        raise InputError(f"{field}: {path} holds no {what}; name a model's folder or its {names[0]}/")
    return found


def read_base(config: Config, workdir: Path) -> Base:
    """The given parts, read; InputError names the field where one can't be."""
    places: dict[str, Path] = {}
    model, denoiser, params = None, None, None
    if isinstance(config.denoiser, Pretrained):
        place = place_of_given(config.denoiser.path, workdir, "denoiser")
        folder = model_folder(place)
        if folder is not None:
            with told_as("denoiser_from"):
                model = load(folder)
            if model.denoiser is None:
                raise InputError(f"denoiser_from: {place} holds an autoencoder without a denoiser")
            if getattr(model.denoiser.config, "guidance_dim", 0):
                raise InputError(f"denoiser_from: {place} is told its guidance (distilled); it can be sampled alone")
            denoiser = model.denoiser, model.denoiser_params
            places["denoiser"] = folder
        else:
            places["denoiser"] = find_part(place, ("transformer", "unet"), "denoiser_from", "denoiser")
            with told_as("denoiser_from"):
                denoiser = load_part(places["denoiser"])
            if not hasattr(denoiser[0].config, "out_channels"):
                raise InputError(f"denoiser_from: {place} holds a {type(denoiser[0]).__name__}, not a denoiser")
    if isinstance(config.autoencoder, Pretrained):
        place = place_of_given(config.autoencoder.path, workdir, "autoencoder")
        if place.is_file():
            places["autoencoder"] = place
            with told_as("autoencoder_from"):
                module, params = load_single(place).get("vae", (None, None))
        else:
            places["autoencoder"] = find_part(place, ("vae", "vqvae"), "autoencoder_from", "autoencoder")
            with told_as("autoencoder_from"):
                module, params = load_part(places["autoencoder"])
        if type(module) not in AUTOENCODERS.values():
            found = f"{places['autoencoder']} holds a {type(module).__name__}"
            raise InputError(f"autoencoder_from: {found}, not an autoencoder")
    elif model is not None:
        module, params = model.autoencoder, model.autoencoder_params
    else:
        module = make_autoencoder(config.autoencoder)
    return Base(module, params, model, denoiser, places, workdir)


class Parts(NamedTuple):
    """The experiment with its open fields filled in, and all parts that are not trained."""

    config: Config
    base: Base
    loader: Loader
    test: Source | None
    """Examples that are held out, where there are any."""
    conditions: tuple[Condition, ...]
    prior: Loader | None = None
    """The second source, where there is one."""


def assemble(config: Config, base: Base) -> Parts:
    """Opens the data and fits everything together; InputError where it doesn't fit."""
    source = open_source(config.data.source, "train")
    if 0 < config.data.limit < len(source):
        source = Subset.evenly(source, config.data.limit)
    data = config.data
    base = _taught(config, base, source)
    known = _known(base)
    loader = loader_of(config, base, renumbered(source, known) if known else source)
    try:
        test = open_source(data.source, "test")
        test = renumbered(test, known) if known else test
    except InputError as error:
        log.warning("nothing is held out: %s", error)
        test = None
    if jax.process_index() == 0:
        log.info("%s: %s", data.source, summary(source, test))
    factor = base.autoencoder.config.factor
    *space, _ = loader.shape
    if any(side % factor for side in space):
        raise InputError(f"data.image_size: {space[0]} must be a multiple of the down-sampling factor {factor}")
    latent = (*(side // factor for side in space), base.autoencoder.config.code_channels)
    captions = functools.partial(captions_of, source) if has_captions(source) else None
    given = Given(
        known or tuple(source.class_names),
        captions,
        tuple(loader.shape),
        latent,
        base.place,
        has_pairs(source),
        tuple(object_names(source)),
    )
    conditions = _conditions(config, base, given)
    config = _filled(config, base, conditions, latent, loader)
    training = config.stage(AutoencoderTraining)
    if training is not None:
        check_loss(training, base.autoencoder.config, space[0])
    prior, other = prior_of(config), None
    if prior is not None:
        other = loader_of(config, base, prior_source(config, prior, conditions))
        check_alike(other, loader)
    return Parts(config, base, loader, test, conditions, other)


def loader_of(config: Config, base: Base, source: Source) -> Loader:
    """The training batches of a source, as the experiment wants them."""
    data = config.data
    return Loader(
        source,
        batch_size=data.batch_size,
        image_size=data.image_size,
        channels=base.autoencoder.config.image_channels,
        seed=config.seed,
        flip=data.flip,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _taught(config: Config, base: Base, source: Source) -> Base:
    """The given denoiser with the classes of the data, too; InputError where that can't be."""
    training = config.stage(DenoiserTraining)
    if base.model is not None and training is not None:
        model = taught(base.model, source, config.data.source, training)
        added = model.class_names[base.model.num_classes :]
        return base._replace(model=model, denoiser=(model.denoiser, model.denoiser_params), added=added)
    alone = base.denoiser if base.model is None else None
    classes = getattr(alone[0].config, "num_classes", 0) if alone else 0
    if classes and len(source.class_names) != classes:
        raise InputError(
            f"data.source: {config.data.source} has {len(source.class_names)} classes, the denoiser {classes}; name a "
            "whole model's folder, which tells which they are"
        )
    return base


def _known(base: Base) -> tuple[str, ...]:
    """The classes of a model that is trained on; () where there are none."""
    return () if base.model is None else base.model.class_names


def captions_of(source: Source) -> Iterator[str]:
    """All captions of all examples."""
    return (text for i in range(len(source)) for text in annotation(source, i)[1])


def told_features(conditions: Sequence[Condition], loader: Loader) -> dict[str, int]:
    """How many features the conditions give as context and pooled, 0 for none; found on one example, not computed."""
    example = loader.views(0)[0]

    def told(params: Any, arrays: Any) -> Conditioning:
        return join([c.apply(params[c.name], arrays[c.name], None) for c in conditions])

    params = {c.name: jax.eval_shape(c.init, jax.random.key(0)) for c in conditions}
    shapes = jax.eval_shape(told, params, {c.name: c.embed(stack(c.read(example)[:1])) for c in conditions})
    parts = {"context_dim": shapes.context, "pooled_dim": shapes.pooled}
    return {name: 0 if part is None else part.shape[-1] for name, part in parts.items()}


def _conditions(config: Config, base: Base, given: Given) -> tuple[Condition, ...]:
    training = config.stage(DenoiserTraining)
    if training is not None and training.embedding is not None and base.model is None:
        raise InputError("stages.denoiser.embedding: it needs a whole pipeline, for its text encoders")
    if base.model is not None and training is not None:
        found = tuple(conditions_of(base.model, training.dropout, given.example[:-1]))
        if training.embedding is not None:
            return with_new_word(found, training.embedding)
    else:
        found = tuple(c for section in config.conditions if (c := section.build(given)) is not None)
    read = {field for condition in found for field in condition.fields}
    if given.captions and "caption" not in read:
        log.warning("%s has captions that no condition of this experiment reads", config.data.source)
    if "caption" in read and not given.captions:
        raise InputError(
            f"data.source: {config.data.source} has no captions, which this denoiser is told; docs/data.md shows where "
            "they are looked for"
        )
    for field, there, what in (("paired", given.pairs, "paired images"), ("objects", given.object_names, "boxes")):
        if field in read and not there:
            raise InputError(f"data.source: {config.data.source} has no {what}, which this denoiser is told")
    if given.pairs and "paired" not in read:
        log.warning("%s has paired images that no condition of this experiment reads", config.data.source)
    for condition in found:
        names = getattr(condition, "object_names", None)
        if names is not None and tuple(names) != given.object_names:
            raise InputError(f"data.source: {config.data.source} has other kinds of boxes than the denoiser knows")
    return found


def _filled(
    config: Config, base: Base, conditions: tuple[Condition, ...], latent: tuple[int, ...], loader: Loader
) -> Config:
    """The config with the open fields filled in: channels from images and latents, classes from the data."""
    label = next((c for c in conditions if isinstance(c, LabelCondition)), None)
    stages = []
    for stage in config.stages:
        if isinstance(stage, AutoencoderTraining):
            channels = base.autoencoder.config.image_channels
            discriminator = dataclasses.replace(stage.discriminator, image_channels=channels)
            stage = dataclasses.replace(stage, discriminator=discriminator)
        stages.append(stage)
    changes: dict[str, Any] = {"stages": tuple(stages)}
    training = config.stage(DenoiserTraining)
    intervals = training is not None and training.objective.intervals
    joined = sum(condition.channels for condition in conditions)
    if base.model is not None:
        changes["process"] = inherited(config.process, base.model.process)
    elif not isinstance(config.denoiser, Pretrained):
        # The conditions say whether there are classes; a network that has a number of its own keeps it.
        told = told_features(conditions, loader)
        asked: dict[str, Any] = {"num_classes": config.denoiser.num_classes or (-1 if label else 0)}
        for field in dataclasses.fields(config.denoiser):
            if told.get(field.name) and getattr(config.denoiser, field.name) == field.default:
                asked[field.name] = -1
        if intervals:
            asked["interval"] = True
        changes["denoiser"] = dataclasses.replace(config.denoiser, **asked).fitted(
            latent_channels=latent[-1],
            num_classes=label.num_classes if label else 0,
            image_channels=joined,
            **told,
        )
    network = base.denoiser[0].config if base.denoiser else changes["denoiser"]
    if intervals and not getattr(network, "interval", False):
        raise InputError("stages.denoiser.objective: the given denoiser is not told intervals; it must be denoising")
    if network.in_channels != latent[-1] + joined:
        raise InputError(
            f"denoiser.in_channels: {network.in_channels} must be the latents' {latent[-1]} "
            f"and the conditions' {joined}"
        )
    patch = getattr(network, "patch", 1)
    if any(side % patch for side in latent[:-1]):
        raise InputError(f"denoiser.patch: {patch} must divide the latents' side {latent[0]}")
    return dataclasses.replace(config, **changes)


def inherited(process: Process, given: Process) -> Process:
    """A pretrained model's process, judged as the experiment says."""
    own = {name: getattr(given, name) for name in ("schedule", "prediction", "timestep")}
    for name, value in own.items():
        asked = getattr(process, name)
        if asked not in (value, getattr(Process(), name)):
            raise InputError(f"process.{name}: {asked} must be left out, for it comes with the denoiser: {value}")
    return dataclasses.replace(process, **own)
