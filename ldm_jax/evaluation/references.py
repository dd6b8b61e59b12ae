"""What is compared with: a data source's splits, or an .npz of images or statistics."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

from ldm_jax import metrics
from ldm_jax.data.opening import SCHEMES
from ldm_jax.errors import InputError
from ldm_jax.evaluation.sets import ImageSet, npz_set, source_set
from ldm_jax.metrics import Gaussian


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """`sets` by split; an .npz has the one split "arr_0", or none where it holds statistics alone."""

    spec: str
    split: str
    sets: Mapping[str, ImageSet]
    statistics: Mapping[str, Gaussian] = dataclasses.field(default_factory=dict)
    """Of the features in `space`, by layer."""
    space: str = "inception"
    """ADM's files don't say; theirs are Inception's."""
    weights_hash: str | None = None
    """Of the network that made the statistics, where the file tells."""
    file_hash: str | None = None
    calibration: str = "test"
    """The set of images that training never saw, which samples' distances to the training set are judged by."""

    @property
    def images(self) -> ImageSet | None:
        """What samples are compared with."""
        return self.sets.get(self.split)

    @property
    def train(self) -> str:
        """The split that training images are looked for in."""
        return "train" if "train" in self.sets else self.split

    @property
    def held_out(self) -> str:
        """The split whose images reconstructions are measured on."""
        return "test" if "test" in self.sets else self.split


def is_source(spec: str) -> bool:
    """Whether `spec` is a data source, SCHEME:REST, and not a file."""
    return spec.partition(":")[0] in SCHEMES


def open_reference(
    spec: str,
    split: str | None,
    shape: tuple[int, int, int],
    *,
    limit: int | None,
    rounding: str,
    needs: frozenset[str] = frozenset(),
) -> Reference:
    """The reference that `spec` names, for samples of `shape` [h w c].

    split: of a source, "train" where None. limit: use about so many of a source's images, evenly over each split.
    needs: splits beside `split` that metrics ask for.

    Raises:
      InputError: there is no such reference, its images have another shape, or it lacks a split.
    """
    if is_source(spec):
        split = split or "train"
        sets = {name: source_set(spec, name, shape[0], shape[2], limit) for name in sorted({split, *needs})}
        return Reference(spec, split, sets)
    path = Path(spec)
    if path.suffix != ".npz":
        forms = ", ".join(form for form, _ in SCHEMES.values())
        raise InputError(f"reference: {spec!r} must be a data source ({forms}) or an .npz")
    if not path.is_file():
        raise InputError(f"reference: {path} does not exist")
    if split is not None:
        raise InputError(f"split: {split!r} can't be chosen; {path} is a file without splits")
    if needs:
        raise InputError(f"reference: {path} has no {' and '.join(sorted(needs))} split; name a data source")
    statistics, notes = metrics.read_statistics(path)
    with metrics.open_npz(path) as file:
        has_images = "arr_0" in file
    if not has_images and not statistics:
        raise InputError(f"reference: {path} has neither arr_0 nor mu and sigma")
    sets = {"arr_0": npz_set(path, rounding)} if has_images else {}
    for images in sets.values():
        if images.shape != shape:
            theirs, ours = ("x".join(map(str, s)) for s in (images.shape, shape))
            raise InputError(f"reference: its images are {theirs}, those to be evaluated {ours}; they must agree")
    return Reference(
        spec,
        "arr_0",
        sets,
        statistics,
        notes.get("features", "inception"),
        notes.get("weights_hash"),
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )
