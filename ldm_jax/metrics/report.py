"""A report: the numbers and everything that they depend on, as JSON and as a table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What must be reported with a published number; None where it does not apply."""

    subject: Mapping[str, Any]
    """kind ("model" or "samples"), path, image_size, channels, hash of the weights or of the images."""
    num_samples: int | None
    labels: str | None
    """"balanced" (each class in turn), "random" (drawn evenly), or "given" with the samples."""
    reference: Mapping[str, Any]
    """spec, split, number of images, hash of the pixels, and how they were prepared."""
    rounding: str
    """The rule from [-1, 1] to 8 bits (see `rounding`), or "given" where the samples were 8-bit images."""
    sampler: str | None
    steps: int | None
    guidance: float | None
    seed: int | None
    batch_size: int
    """It does not change the images; speed and memory depend on it."""
    reconstruction: Mapping[str, Any] | None
    """The images that the autoencoder was measured on."""
    features: Mapping[str, Any]
    """For each feature network: its name, weights' hash, and how it resizes."""
    software: Mapping[str, Any]
    """Versions, git revision, device."""


@dataclasses.dataclass(frozen=True)
class Report:
    """`metrics` maps a metric's published name to its number; `notes` say what limits them."""

    protocol: Protocol
    metrics: Mapping[str, float]
    sweep: Mapping[str, Any] | None = None
    """With --sweep: field, values, and the metrics at each of them."""
    notes: Sequence[str] = ()

    def to_json(self) -> str:
        """Indented JSON; numbers that JSON lacks (infinite, NaN) are null."""
        return json.dumps(_plain(dataclasses.asdict(self)), indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """The report as a table of two columns, as readable in a terminal as where Markdown is set."""
        rows = {str(self.protocol.subject["kind"]): str(self.protocol.subject["path"])}
        if self.protocol.num_samples is not None:
            rows["samples"] = str(self.protocol.num_samples)
        rows |= {name: number(value) for name, value in self.metrics.items()}
        left, right = (max(map(len, column)) for column in (rows.keys(), rows.values()))
        (kind, path), *others = rows.items()
        lines = [f"| {kind:{left}} | {path:>{right}} |", f"| {'-' * left} | {'-' * (right - 1)}: |"]
        return "\n".join([*lines, *(f"| {name:{left}} | {value:>{right}} |" for name, value in others)])


def number(value: float) -> str:
    """Four significant digits, without an exponent where that is short."""
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
