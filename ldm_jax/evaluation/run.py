"""The evaluation itself, from the names of things to a report and its picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax import metrics
from ldm_jax.errors import InputError
from ldm_jax.evaluation import numbers as table
from ldm_jax.evaluation import reporting
from ldm_jax.evaluation.numbers import GENERATION, UNBIASED, Found, Metric, inception_score_notes
from ldm_jax.evaluation.passes import make_plan, reference_features, sample_features
from ldm_jax.evaluation.reconstruction import reconstruct
from ldm_jax.evaluation.references import Reference, is_source, open_reference
from ldm_jax.evaluation.sets import first_images, spread_images
from ldm_jax.evaluation.spaces import open_comparisons, open_spaces
from ldm_jax.evaluation.subjects import Drawing, LabelPolicy, ModelSubject, SamplesSubject, open_subject
from ldm_jax.experiment.averages import check_snapshots, with_average
from ldm_jax.metrics import Features, Report, Rounding, panel
from ldm_jax.pipeline import name_of

DEFAULT_NUM = 2000


@dataclasses.dataclass(frozen=True)
class Options:
    """What `evaluate` is asked; None: the model's own, or the default that the command's help tells."""

    subject: Path
    reference: str
    metrics: tuple[str, ...] | None = None
    num: int | None = None
    split: str | None = None
    reference_num: int | None = None
    labels: LabelPolicy | None = None
    """None: balanced."""
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    """None: 0."""
    batch_size: int = 64
    rounding: Rounding = "round"
    sweep: tuple[str, tuple[float, ...]] | None = None
    """"guidance" or "steps", and its values."""
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Files of the feature networks, by name."""
    save_reference: Path | None = None
    picture: bool = True
    """Whether nearest neighbours for the panel are looked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The numbers and their picture."""

    report: Report
    picture: np.ndarray | None
    """uint8 [h w 3]; None where nothing was drawn or asked for."""


class Setup(NamedTuple):
    """Everything that is opened and checked before anything is computed."""

    subject: ModelSubject | SamplesSubject
    generation: dict[str, Metric]
    rebuilt: list[str]
    speed: bool
    reference: Reference
    drawing: Drawing | None
    """None for samples, and for an autoencoder without a denoiser."""


def evaluate(options: Options) -> Result:
    """Runs everything that `options` ask for; see docs/metrics.md.

    Raises:
      InputError: what was asked does not fit together; as far as possible before anything is computed.
    """
    subject, generation, rebuilt, timed, reference, drawing = setup = set_up(options)
    spaces = open_spaces(_spaces(setup), options.weights, options.batch_size)
    comparisons = open_comparisons(rebuilt, options.weights)
    made_with = spaces[reference.space].weights_hash if reference.space in spaces else None
    if reference.weights_hash and made_with and made_with != reference.weights_hash:
        raise InputError(f"reference: its statistics were made with other {reference.space} weights")
    conditions, policy = _conditions(setup)
    values: dict[str, float] = {}
    notes: list[str] = []
    pictures: list[np.ndarray] = []
    speed: dict[str, float] = {}
    if timed and isinstance(subject, ModelSubject) and drawing is not None:
        # First, so that the peak of memory is the model's and not a feature network's.
        speed = subject.speed(drawing, conditions)
    shown, sweep, rebuilt_from = None, None, None
    hashes: dict[str, str] = {}
    if generation:
        neighbours = reporting.neighbour_space(generation, reference) if options.picture else None
        plan = make_plan(generation, reference, neighbours)
        found, hashes = reference_features(plan, reference, spaces, options.batch_size)
        if options.save_reference is not None:
            reporting.save_reference(options.save_reference, generation, found, reference, spaces)
        shown = sample_features(subject, drawing, conditions, plan, spaces, options.batch_size)
        values |= compute(generation, shown.features, found, reference)
        notes += _notes(generation, shown.features)
        if options.picture:
            pictures.append(reporting.neighbours(shown, found, reference, neighbours))
        if options.sweep is not None and drawing is not None:
            field, points = options.sweep
            rows: dict[str, list[float]] = {}
            for point in points:
                drawn = shown
                other = _changed(subject, drawing, field, point)
                if other != (subject, drawing):
                    drawn = sample_features(*other, conditions, plan, spaces, options.batch_size)
                for name, number in compute(generation, drawn.features, found, reference).items():
                    rows.setdefault(name, []).append(number)
            sweep = {"field": field, "values": list(points), "metrics": rows}
            if options.picture:
                frechet = [metric.frechet for metric in generation.values() if metric.frechet]
                pictures.append(panel.plot(field, points, {name: rows[name] for name in frechet or list(rows)[:1]}))
    if rebuilt and isinstance(subject, ModelSubject):
        held_out = spread_images(reference.sets[reference.held_out], options.num or DEFAULT_NUM)
        rebuilding = reconstruct(subject, held_out, rebuilt, spaces, comparisons, options.batch_size, options.rounding)
        values |= rebuilding.values
        rebuilt_from = {"name": held_out.name, "images": held_out.count, "images_hash": rebuilding.images_hash}
        if not generation:
            pictures.append(rebuilding.picture)
    values |= speed
    protocol = reporting.protocol(
        subject,
        drawing,
        policy,
        reference,
        hashes,
        shown,
        rebuilt_from,
        {**spaces, **comparisons},
        options.rounding,
        options.batch_size,
    )
    picture = panel.stack(pictures) if options.picture and pictures else None
    return Result(Report(protocol, values, sweep, notes), picture)


def _changed(
    subject: ModelSubject | SamplesSubject, drawing: Drawing, field: str, value: float
) -> tuple[ModelSubject | SamplesSubject, Drawing]:
    """What draws, and how, at a point of a sweep."""
    if field == "ema" and isinstance(subject, ModelSubject):
        return dataclasses.replace(subject, model=with_average(subject.model, subject.path, value)), drawing
    return subject, dataclasses.replace(drawing, **{field: int(value) if field == "steps" else value})


def set_up(options: Options) -> Setup:
    """Opens the subject and the reference, and refuses what does not fit together."""
    for name, least in (("num", 1), ("batch_size", 1), ("reference_num", 2), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"{name}: {value} must be at least {least}")
    if options.metrics is not None:
        table.check_names(options.metrics)
    subject = open_subject(options.subject, options.rounding)
    kind: table.Kind = "samples"
    if isinstance(subject, ModelSubject):
        kind = "model" if subject.model.denoiser is not None else "autoencoder"
    names = options.metrics or _defaults(kind, options)
    _check_usable(options, subject)
    _check_kind(names, kind, options)
    generation = {name: GENERATION[name] for name in names if name in GENERATION}
    rebuilt = [name for name in names if name in table.RECONSTRUCTION]
    needs = {"train", "test"} if any(metric.test.arrays for metric in generation.values()) else set()
    if rebuilt and is_source(options.reference):
        needs.add("test")
    reference = open_reference(
        options.reference,
        options.split,
        subject.shape,
        limit=options.reference_num,
        rounding=options.rounding,
        needs=frozenset(needs),
    )
    drawing = _drawing(subject, options) if isinstance(subject, ModelSubject) else None
    if isinstance(subject, ModelSubject) and needs >= {"train", "test"}:
        reference = _calibrated(reference, subject, options.rounding)
    if isinstance(subject, SamplesSubject):
        subject = dataclasses.replace(subject, images=first_images(subject.images, options.num))
    setup = Setup(subject, generation, rebuilt, "speed" in names, reference, drawing)
    _check_samples(setup)
    _check_reconstruction(setup)
    if options.save_reference is not None:
        frechet = [metric for metric in generation.values() if metric.frechet and not metric.reads(reference)]
        if not frechet:
            raise InputError("save-reference: name a Fréchet distance, such as fd_effnet, whose statistics to save")
    return setup


def _calibrated(reference: Reference, subject: ModelSubject, rounding: Rounding) -> Reference:
    """The reference with rebuilt test images: the decoder's blur alone brings an image nearer to the training set."""
    test = reference.sets["test"]
    rebuilt = dataclasses.replace(
        test,
        name=f"{test.name}, rebuilt",
        preparation=f"{test.preparation}, through the model's autoencoder",
        stream=lambda batch_size: subject.rebuild(test, batch_size, rounding),
    )
    return dataclasses.replace(
        reference, sets={**reference.sets, "test, rebuilt": rebuilt}, calibration="test, rebuilt"
    )


def _defaults(kind: table.Kind, options: Options) -> tuple[str, ...]:
    if is_source(options.reference):
        return table.default_names(kind, images=True, splits=True)
    if not options.reference.endswith(".npz") or not Path(options.reference).is_file():
        # `open_reference` says what is wrong.
        return table.default_names(kind, images=True, splits=False)
    with metrics.open_npz(options.reference) as file:
        return table.default_names(kind, images="arr_0" in file, splits=False)


def _check_usable(options: Options, subject: ModelSubject | SamplesSubject) -> None:
    """InputError for an option of drawing that would be ignored."""
    unused: dict[str, str] = {}
    if isinstance(subject, SamplesSubject):
        unused = dict.fromkeys(("sampler", "steps", "guidance", "seed", "labels"), "holds samples, drawn already")
    elif subject.model.denoiser is None:
        unused = dict.fromkeys(
            ("sampler", "steps", "guidance", "seed", "labels"), "is an autoencoder without a denoiser"
        )
    elif subject.model.text is not None:
        unused = {"labels": "draws from the reference's captions"}
    elif not subject.model.num_classes:
        unused = dict.fromkeys(("guidance", "labels"), "has no classes")
    for field, why in unused.items():
        value = getattr(options, field)
        if value is not None and (field, value) != ("guidance", 1.0):
            name = "label_policy" if field == "labels" else field
            raise InputError(f"{name}: {value} can't be used, {options.subject} {why}; leave it out")


def _check_kind(names: tuple[str, ...], kind: table.Kind, options: Options) -> None:
    for name in names:
        if kind == "samples" and name not in GENERATION:
            raise InputError(f"metrics: {name} is measured on a model; {options.subject} holds samples")
        if kind == "autoencoder" and (name in GENERATION or name == "speed"):
            raise InputError(f"metrics: {name} needs samples; {options.subject} is an autoencoder without a denoiser")
    if options.sweep is not None:
        if kind != "model":
            raise InputError(f"sweep: it draws samples anew; {options.subject} is no model that could")
        if not any(name in GENERATION for name in names):
            raise InputError("sweep: name a metric of samples to measure along it, such as fd_effnet")
        if options.sweep[0] == "ema":
            check_snapshots(options.subject, "sweep")


def _drawing(subject: ModelSubject, options: Options) -> Drawing | None:
    model = subject.model
    if model.denoiser is None:
        return None
    drawing = Drawing(
        num=DEFAULT_NUM if options.num is None else options.num,
        sampler=options.sampler or name_of(model.sampling.sampler),
        steps=model.sampling.steps if options.steps is None else options.steps,
        guidance=float(model.sampling.guidance if options.guidance is None else options.guidance),
        seed=options.seed or 0,
        labels=options.labels or "balanced",
        batch_size=options.batch_size,
        rounding=options.rounding,
    )
    # Names and steps that no sampler has are found now, not after the reference's features.
    model.recipe(drawing.steps, drawing.sampler)
    return drawing


def _check_samples(setup: Setup) -> None:
    subject, reference, drawing = setup.subject, setup.reference, setup.drawing
    samples = subject.images.count if isinstance(subject, SamplesSubject) else drawing.num if drawing else 0
    for name, metric in setup.generation.items():
        if samples < metric.least:
            raise InputError(f"num: {name} needs at least {metric.least} samples; there {_are(samples)}")
        if not (metric.reference.moments | metric.reference.arrays) or metric.reads(reference):
            continue
        if reference.images is None:
            held = f"statistics of {reference.space} features alone"
            raise InputError(f"reference: {reference.spec} holds {held}; {name} needs others")
        if reference.images.count < metric.least:
            count = reference.images.count
            raise InputError(f"reference: {name} needs at least {metric.least} images; there {_are(count)}")


def _check_reconstruction(setup: Setup) -> None:
    if not setup.rebuilt:
        return
    reference, (h, w, _) = setup.reference, setup.subject.shape
    if not reference.sets:
        raise InputError(f"reference: {reference.spec} holds statistics alone; {setup.rebuilt[0]} needs images")
    count = reference.sets[reference.held_out].count
    for name in setup.rebuilt:
        least = {"ms_ssim": 161, "ssim": 11}.get(name, 1)
        if min(h, w) < least:
            raise InputError(f"metrics: {name} needs images of {least} px or more; the model's are {h}x{w}")
        if name in table.RECONSTRUCTION_FRECHET and count < 2:
            raise InputError(f"reference: {name} needs at least 2 images; there {_are(count)}")


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _spaces(setup: Setup) -> set[str]:
    rebuilding = {space for name, (space, _) in table.RECONSTRUCTION_FRECHET.items() if name in setup.rebuilt}
    beside = {"pixels"} if setup.generation and setup.reference.sets else set()
    return {metric.space for metric in setup.generation.values()} | rebuilding | beside


def _conditions(setup: Setup) -> tuple[dict[str, Any], str | None]:
    subject, drawing, images = setup.subject, setup.drawing, setup.reference.images
    if isinstance(subject, SamplesSubject):
        return {}, "given"
    if drawing is None:
        return {}, None
    captions = None
    if subject.model.text is not None and images is not None and images.captions is not None:
        captions = images.captions(range(min(drawing.num, images.count)))
    return subject.conditions(drawing, captions)


def compute(
    generation: Mapping[str, Metric],
    samples: Mapping[str, Features],
    found: Mapping[str, Mapping[str, Features]],
    reference: Reference,
) -> dict[str, float]:
    """The numbers of all metrics, from features by space (samples) and by split and space (reference)."""
    values: dict[str, float] = {}
    for metric in generation.values():
        read = metric.reads(reference)
        compared, train, test = (
            found.get(split, {}).get(metric.space)
            for split in (reference.split, reference.train, reference.calibration)
        )
        statistics = reference.statistics if read else {}
        values |= metric.compute(Found(samples[metric.space], None if read else compared, train, test, statistics))
    return values


def _notes(generation: Mapping[str, Metric], samples: Mapping[str, Features]) -> list[str]:
    notes = []
    for metric in generation.values():
        if metric is GENERATION["is"]:
            notes += inception_score_notes(len(samples[metric.space].arrays[UNBIASED]))
        for layer in metric.samples.moments:
            moments = samples[metric.space].moments[layer]
            if moments.count <= len(moments.mean):
                notes.append(
                    f"{metric.frechet}: {moments.count} samples for {len(moments.mean)} features; the covariance is "
                    "singular and the distance larger than with more samples"
                )
    return notes
