"""The metrics by name: what each needs and how it is computed from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ldm_jax import metrics
from ldm_jax.errors import InputError
from ldm_jax.evaluation.references import Reference
from ldm_jax.metrics import Features, Gaussian, Wanted

SPACES = {"inception": "Inception", "effnet": "EffNet", "dinov2": "DINOv2", "clip": "CLIP", "pixels": "pixels"}
"""Feature spaces and their names in reports."""


class Found(NamedTuple):
    """The features of the sets that a metric compares, all of one space."""

    samples: Features
    reference: Features | None
    train: Features | None
    test: Features | None
    statistics: Mapping[str, Gaussian]
    """Of the reference, where they were read from a file."""

    def reference_gaussian(self, layer: str) -> Gaussian:
        """Mean and covariance of the reference's features of a layer, computed here or read from a file."""
        return self.statistics[layer] if self.reference is None else self.reference.moments[layer].gaussian


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of samples against a reference, in one feature space."""

    space: str
    compute: Callable[[Found], dict[str, float]]
    samples: Wanted
    reference: Wanted = Wanted()
    train: Wanted = Wanted()
    test: Wanted = Wanted()
    least: int = 2
    """Images that each set must have."""
    frechet: str | None = None
    """The name of its number, where it is a Fréchet distance."""

    def reads(self, reference: Reference) -> bool:
        """Whether it takes the reference's statistics as they were read, and needs no images of it."""
        layers = self.reference.moments
        return bool(self.frechet) and self.space == reference.space and layers <= set(reference.statistics)


POOL = frozenset({"pool"})
UNBIASED = "logits_unbiased"
"""Scores without the bias, of which ADM takes the Inception Score."""
ARRAYS, MOMENTS = Wanted(arrays=POOL), Wanted(moments=POOL)


def _frechet(space: str, name: str, layer: str = "pool") -> Metric:
    def compute(found: Found) -> dict[str, float]:
        samples = found.samples.moments[layer].gaussian
        return {name: metrics.frechet_distance(samples, found.reference_gaussian(layer))}

    wanted = Wanted(moments=frozenset({layer}))
    return Metric(space, compute, samples=wanted, reference=wanted, frechet=name)


def _kernel(space: str, name: str) -> Metric:
    def compute(found: Found) -> dict[str, float]:
        x, y = _pooled(found)
        distance = metrics.kernel_distance(x, y, subset_size=min(1000, min(len(x), len(y)) // 2))
        return {name: distance.mean, f"{name} std": distance.std, f"{name} error": distance.error}

    return Metric(space, compute, samples=ARRAYS, reference=ARRAYS, least=4)


def _prdc(space: str) -> Metric:
    def compute(found: Found) -> dict[str, float]:
        x, y = _pooled(found)
        values = {**metrics.precision_recall(y, x)._asdict(), **metrics.density_coverage(y, x)._asdict()}
        return {f"{name} ({SPACES[space]})": value for name, value in values.items()}

    return Metric(space, compute, samples=ARRAYS, reference=ARRAYS, least=6)


def _memorization(space: str) -> Metric:
    def compute(found: Found) -> dict[str, float]:
        assert found.train is not None and found.test is not None
        samples, train, test = (features.arrays["pool"] for features in (found.samples, found.train, found.test))
        values = metrics.memorization(samples, train, test)
        words = {"copies": "copies", "copies_test": "copies, test", "distance": "nearest", "z": "copying z"}
        words["distance_test"] = "nearest, test"
        return {f"{words[name]} ({SPACES[space]})": value for name, value in values._asdict().items()}

    return Metric(space, compute, samples=ARRAYS, train=ARRAYS, test=ARRAYS, least=2)


def _vendi(space: str) -> Metric:
    def compute(found: Found) -> dict[str, float]:
        return {f"Vendi ({SPACES[space]})": metrics.vendi_score(found.samples.arrays["pool"])}

    return Metric(space, compute, samples=ARRAYS)


def _cmmd(found: Found) -> dict[str, float]:
    return {"CMMD": metrics.cmmd(*_pooled(found))}


def _inception_score(found: Found) -> dict[str, float]:
    score = metrics.inception_score(found.samples.arrays[UNBIASED])
    return {"IS": score.mean, "IS std": score.std}


def inception_score_notes(count: int) -> list[str]:
    """What limits the Inception Score of so many images, in the groups and the order of ADM's evaluator."""
    last, groups = count % metrics.SPLIT, -(-count // metrics.SPLIT)
    notes = []
    if groups > 1:
        notes.append(
            f"IS: the mean over {groups} groups of {metrics.SPLIT} samples in their order, as ADM's evaluator has it; "
            "samples sorted by class score less than shuffled ones"
        )
    if groups > 1 and last:
        notes.append(
            f"IS: the last group has {last} of {count} samples and counts as much as a whole one, which lowers the "
            f"score (a group of one scores 1); draw a multiple of {metrics.SPLIT}"
        )
    if count < metrics.SPLIT:
        notes.append(f"IS: one group of {count} samples; compare it with scores of as many alone")
    return notes


def _pooled(found: Found) -> tuple[np.ndarray, np.ndarray]:
    assert found.reference is not None
    return found.samples.arrays["pool"], found.reference.arrays["pool"]


GENERATION: dict[str, Metric] = {
    "fid": _frechet("inception", "FID"),
    "sfid": _frechet("inception", "sFID", "spatial"),
    "is": Metric("inception", _inception_score, samples=Wanted(arrays=frozenset({UNBIASED}))),
    "kid": _kernel("inception", "KID"),
    "cmmd": Metric("clip", _cmmd, samples=ARRAYS, reference=ARRAYS),
    "prdc": _prdc("inception"),
    "memorization": _memorization("effnet"),
    "memorization_pixels": _memorization("pixels"),
    "memorization_dinov2": _memorization("dinov2"),
    **{f"fd_{space}": _frechet(space, f"FD-{SPACES[space]}") for space in ("effnet", "dinov2")},
    **{f"kd_{space}": _kernel(space, f"KD-{SPACES[space]}") for space in ("effnet", "dinov2")},
    **{f"prdc_{space}": _prdc(space) for space in ("effnet", "dinov2")},
    **{f"vendi_{space}": _vendi(space) for space in ("effnet", "dinov2")},
}
"""Metrics of samples. FID, sFID, IS and KID are Inception's alone; in other spaces they have other names."""

RECONSTRUCTION_FRECHET = {"rfid": ("inception", "rFID"), "rfd_effnet": ("effnet", "rFD-EffNet")}
LPIPS = {"lpips": ("vgg16", "LPIPS (VGG)"), "lpips_alex": ("alexnet", "LPIPS (AlexNet)")}
PIXELWISE: dict[str, str] = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}
RECONSTRUCTION = (*RECONSTRUCTION_FRECHET, *PIXELWISE, *LPIPS)
"""Metrics of a model's autoencoder."""
NAMES = (*GENERATION, *RECONSTRUCTION, "speed")

Kind = Literal["model", "autoencoder", "samples"]


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, once each, or InputError for one that is unknown."""
    for name in names:
        if name not in NAMES:
            raise InputError(f"metrics: {name!r} must be one of {', '.join(NAMES)}")
    if not names:
        raise InputError(f"metrics: name one or more of {', '.join(NAMES)}")
    return tuple(dict.fromkeys(names))


def default_names(kind: Kind, *, images: bool, splits: bool) -> tuple[str, ...]:
    """What is measured where nobody says: nothing that has to be downloaded, as far as the reference allows it.

    images: the reference has images, not statistics alone. splits: it has a training and a test split.
    """
    if not images:
        return ("fid",)
    if kind == "autoencoder":
        return ("rfd_effnet", "psnr", "ssim")
    copies = ("memorization",) if splits else ()
    own = ("psnr", "ssim", "speed") if kind == "model" else ()
    return ("fd_effnet", "kd_effnet", "prdc_effnet", *copies, *own)
