"""The passes over sets of images: one over each, for all networks and metrics together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ldm_jax import metrics
from ldm_jax.evaluation.numbers import ARRAYS, Metric
from ldm_jax.evaluation.references import Reference
from ldm_jax.evaluation.sets import Hashed
from ldm_jax.evaluation.spaces import Space
from ldm_jax.evaluation.subjects import Drawing, ModelSubject, SamplesSubject
from ldm_jax.metrics import Features, Wanted
from ldm_jax.progress import track

SHOWN = 16

Plan = dict[str, dict[str, Wanted]]
"""Set ("samples" or a split) to space to what is wanted of it."""


def make_plan(generation: Mapping[str, Metric], reference: Reference, neighbours: str | None) -> Plan:
    """What the metrics want of each set, and what the panel's neighbours (in that space) want beside."""
    plan: Plan = {"samples": {}}

    def want(split: str, space: str, wanted: Wanted) -> None:
        if wanted.moments or wanted.arrays:
            of = plan.setdefault(split, {})
            of[space] = of.get(space, Wanted()) | wanted

    for metric in generation.values():
        want("samples", metric.space, metric.samples)
        if not metric.reads(reference):
            want(reference.split, metric.space, metric.reference)
        want(reference.train, metric.space, metric.train)
        want(reference.calibration, metric.space, metric.test)
    if neighbours is not None:
        want("samples", neighbours, ARRAYS)
        want(reference.train, neighbours, ARRAYS)
    return plan


def reference_features(
    plan: Plan, reference: Reference, spaces: Mapping[str, Space], batch_size: int
) -> tuple[dict[str, dict[str, Features]], dict[str, str]]:
    """Features by split and space, and the hashes of the splits' images."""
    found, hashes = {}, {}
    for split, wanted in plan.items():
        if split == "samples":
            continue
        images = reference.sets[split]
        batches = Hashed(images.stream(batch_size), images.shape)
        found[split] = _collect(batches, spaces, wanted, images.name, images.count, batch_size)
        hashes[split] = batches.hexdigest()
    return found, hashes


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """What one pass over samples left."""

    features: Mapping[str, Features]
    first: np.ndarray
    """The first images, for the picture."""
    images_hash: str
    count: int


def sample_features(
    subject: ModelSubject | SamplesSubject,
    drawing: Drawing | None,
    conditions: dict[str, Any],
    plan: Plan,
    spaces: Mapping[str, Space],
    batch_size: int,
) -> Drawn:
    """Draws or reads the samples once, and keeps what the plan wants of them."""
    if isinstance(subject, ModelSubject):
        assert drawing is not None
        stream, count = subject.draw(drawing, conditions), drawing.num
    else:
        stream, count = subject.images.stream(batch_size), subject.images.count
    first: list[np.ndarray] = []

    def watched(batches: Iterable[Any]) -> Iterator[np.ndarray]:
        for batch in batches:
            first.extend(batch[: SHOWN - len(first)])
            yield batch

    hashed = Hashed(watched(stream), subject.shape)
    features = _collect(hashed, spaces, plan["samples"], "samples", count, batch_size)
    return Drawn(features, np.stack(first), hashed.hexdigest(), count)


def _collect(
    batches: Iterable[Any],
    spaces: Mapping[str, Space],
    wanted: Mapping[str, Wanted],
    title: str,
    count: int,
    batch_size: int,
) -> dict[str, Features]:
    shown = track(batches, title, -(-count // batch_size), "batch")
    return metrics.collect(shown, {name: spaces[name].extract for name in wanted}, wanted)
