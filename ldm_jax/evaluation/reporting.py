"""What a report says beside its numbers: the protocol, the picture, the reference's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import metrics
from ldm_jax.evaluation.numbers import Metric
from ldm_jax.evaluation.passes import Drawn
from ldm_jax.evaluation.references import Reference
from ldm_jax.evaluation.software import software
from ldm_jax.evaluation.spaces import Comparison, Space
from ldm_jax.evaluation.subjects import Drawing, ModelSubject, SamplesSubject, hash_weights
from ldm_jax.metrics import Features, Protocol, Rounding, panel

NEIGHBOURS, LIMIT = 3, 100_000


def neighbour_space(generation: Mapping[str, Metric], reference: Reference) -> str | None:
    """The space in which the panel's neighbours are looked for: that of a memorisation metric, else pixels."""
    if not (generation and reference.sets):
        return None
    if reference.sets[reference.train].count > LIMIT:
        return None
    spaces = [metric.space for metric in generation.values() if metric.train.arrays]
    return spaces[0] if spaces else "pixels"


def neighbours(
    drawn: Drawn, found: Mapping[str, Mapping[str, Features]], reference: Reference, space: str | None
) -> np.ndarray:
    """Samples beside their nearest training images in a space, as a picture uint8 [h w 3]; None: samples alone."""
    n = len(drawn.first)
    if space is None:
        empty = np.zeros((n, 0, *drawn.first.shape[1:]), np.uint8)
        return panel.neighbours(drawn.first, empty, np.zeros((n, 0)), columns=8)
    train = reference.sets[reference.train]
    k = min(NEIGHBOURS, train.count)
    near = metrics.nearest(drawn.features[space].arrays["pool"][:n], found[reference.train][space].arrays["pool"], k)
    beside = np.stack([train.read(row.tolist()) for row in near.index])
    return panel.neighbours(drawn.first, beside, near.distance)


def save_reference(
    path: Path,
    generation: Mapping[str, Metric],
    found: Mapping[str, Mapping[str, Features]],
    reference: Reference,
    spaces: Mapping[str, Space],
) -> None:
    """Writes the reference's means and covariances in the first space that a Fréchet distance is taken in."""
    space = next(metric.space for metric in generation.values() if metric.frechet)
    moments = found[reference.split][space].moments
    notes = {
        "features": space,
        "weights_hash": spaces[space].weights_hash,
        "source": reference.sets[reference.split].name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_statistics(path, {layer: m.gaussian for layer, m in moments.items()}, notes=notes)


def protocol(
    subject: ModelSubject | SamplesSubject,
    drawing: Drawing | None,
    policy: str | None,
    reference: Reference,
    hashes: Mapping[str, str],
    shown: Drawn | None,
    rebuilt: Mapping[str, Any] | None,
    networks: Mapping[str, Space | Comparison],
    rounding: Rounding,
    batch_size: int,
) -> Protocol:
    """Everything that the numbers depend on."""
    model = isinstance(subject, ModelSubject)
    h, w, c = subject.shape
    what: dict[str, Any] = {"kind": "model" if model else "samples", "path": str(subject.path), "image": [h, w, c]}
    if model:
        what["weights_hash"] = hash_weights(subject.path)
    if shown is not None:
        what["images_hash"] = shown.images_hash
    against: dict[str, Any] = {"spec": reference.spec, "split": reference.split}
    if reference.file_hash is not None:
        against["file_hash"] = reference.file_hash
    if reference.images is not None:
        against |= {"images": reference.images.count, "preparation": reference.images.preparation}
    against["images_hash"] = dict(hashes)
    drawn = drawing if shown is not None else None
    return Protocol(
        subject=what,
        num_samples=None if shown is None else shown.count,
        labels=None if shown is None else policy,
        reference=against,
        rounding=rounding if model else "given",
        sampler=drawn and drawn.sampler,
        steps=drawn and drawn.steps,
        guidance=drawn and drawn.guidance,
        seed=drawn and drawn.seed,
        reconstruction=rebuilt,
        batch_size=batch_size,
        features={name: network.described() for name, network in networks.items() if name != "pixels"},
        software=software(),
    )
