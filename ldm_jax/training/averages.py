"""Averages of the parameters by powers of the step, and an average of any other length rebuilt from their snapshots.

Karras et al. 2024 (arXiv 2312.02696), section 3 and appendix C. With exponent gamma the average after t steps weighs
the parameters that step s made by the integral of (gamma + 1) x^gamma / t^(gamma + 1) over s - 1 < x <= s, so that its
length grows with training: the profile's standard deviation is a share `length` of t (the paper's sigma_rel).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float
from safetensors import safe_open
from safetensors.numpy import save_file

from ldm_jax.errors import InputError
from ldm_jax.files import whole

FOLDER = "averages"
"""In a run's folder, where snapshots are."""
LONGEST = 0.28
"""Just below 12^(-1/2), the length of the mean of all steps (gamma = 0)."""


@dataclasses.dataclass(frozen=True)
class Profiles:
    """Averages that are tracked beside `ema`, with snapshots from which any length is rebuilt after training."""

    lengths: tuple[float, ...] = (0.05, 0.1)
    """Standard deviation of each average's weights over the steps, as a share of the steps done."""
    every: int = 500
    """Steps between snapshots, files of all averages in RUN/averages/."""

    def __post_init__(self) -> None:
        for length in self.lengths:
            check_length(length, "stages.denoiser.averages.lengths")
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise InputError(f"stages.denoiser.averages.lengths: {self.lengths} must be one or more different numbers")
        if self.every < 1:
            raise InputError(f"stages.denoiser.averages.every: {self.every} must be at least 1")


def check_length(length: float, field: str) -> None:
    """InputError where no profile has that length."""
    if not 0.0 < length <= LONGEST:
        raise InputError(f"{field}: {length} must be more than 0 and at most {LONGEST}")


def exponent(length: float) -> float:
    """The gamma of a profile of that length: length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), gamma >= 0."""
    inverse = length**-2.0
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def averaged(average: Any, params: Any, gamma: float, step: Array) -> Any:
    """The average after step `step` (from 1), of that before it and the parameters that the step made."""
    kept = (1.0 - 1.0 / step.astype(jnp.float32)) ** jnp.float32(gamma + 1.0)
    # In this form what isn't trained stays what it is, bit by bit.
    return jax.tree.map(lambda old, new: old + (1.0 - kept) * (new - old), average, params)


def _product(a: tuple[Any, Any], b: tuple[Any, Any]) -> Float[np.ndarray, "..."]:
    """Inner products of profiles (gamma, steps), the integral of their product."""
    (one, s), (two, t) = a, b
    both = one + two + 1.0
    power = both * np.log(np.minimum(s, t)) - (one + 1.0) * np.log(s) - (two + 1.0) * np.log(t)
    return (one + 1.0) * (two + 1.0) / both * np.exp(power)


def combination(snapshots: Sequence[tuple[float, int]], length: float, step: int) -> Float[np.ndarray, "n"]:
    """Weights of `snapshots`, (length, step) each, whose sum is the nearest to the average of `length` at `step`.

    Least squares between the profiles (the paper's appendix C), in float64; beyond the paper, the weights' sum is 1,
    which makes what training does not move exact and halves the error of long averages.
    """
    gammas = np.array([exponent(found) for found, _ in snapshots])
    steps = np.array([at for _, at in snapshots], np.float64)
    gram = _product((gammas[:, None], steps[:, None]), (gammas, steps))
    aim = _product((gammas, steps), (exponent(length), np.float64(step)))
    # Profiles of unit norm: late ones are high and narrow, early ones small.
    norm = np.sqrt(np.diag(gram))
    sums = 1.0 / norm
    system = np.block([[gram / np.outer(norm, norm), sums[:, None]], [sums, np.zeros(1)]])
    found, *_ = np.linalg.lstsq(system, np.append(aim / norm, 1.0), rcond=1e-12)
    return found[:-1] / norm


def _name(step: int, length: float) -> str:
    return f"{step:08d}-{length:g}.safetensors"


NAME = re.compile(r"(\d+)-([0-9.e-]+)\.safetensors")


def write_snapshots(folder: Path, step: int, lengths: Sequence[float], averages: Sequence[Any]) -> None:
    """A file for each average, replaced as a whole where it is there."""
    for length, average in zip(lengths, averages, strict=True):
        with whole(folder / _name(step, length)) as place:
            save_file({name: np.asarray(x) for name, x in flatten_dict(average, sep="/").items()}, place)


def read_snapshots(folder: Path) -> list[tuple[float, int]]:
    """(length, step) of every snapshot in the folder, by step."""
    names = [NAME.fullmatch(path.name) for path in folder.glob("*.safetensors")]
    return sorted(((float(m[2]), int(m[1])) for m in names if m), key=lambda pair: pair[::-1])


def rebuild(folder: Path, length: float, step: int | None = None) -> Any:
    """The average of `length` at `step` (None: the last), from a folder's snapshots up to there; one array at a time.

    Raises:
      InputError: no such profile, no snapshot, or none of that step.
    """
    check_length(length, "length")
    known = read_snapshots(folder)
    last = max((at for _, at in known), default=None)
    at = last if step is None else step
    if at is None or all(at != there for _, there in known):
        steps = ", ".join(map(str, sorted({there for _, there in known})))
        raise InputError(f"step: {folder} has no snapshot{'' if at is None else f' of step {at}; it has {steps}'}")
    used = [(found, there) for found, there in known if there <= at]
    weights = combination(used, length, at)
    total: dict[str, np.ndarray] = {}
    for weight, (found, there) in zip(weights, used, strict=True):
        with safe_open(folder / _name(there, found), "np") as file:
            names = file.keys()
            for name in names:
                part = weight * file.get_tensor(name).astype(np.float64)
                total[name] = total[name] + part if name in total else part
    return unflatten_dict({name: value.astype(np.float32) for name, value in total.items()}, sep="/")
