"""The weightings of the loss by noise level as choices of an experiment; see `losses.weight` for their formulas."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float

from ldm_jax.diffusion import losses
from ldm_jax.diffusion.prediction import AnyKind
from ldm_jax.errors import InputError


@runtime_checkable
class WeightingRule(Protocol):
    """A factor on the squared error of a network of some kind, by noise level."""

    def weight(
        self,
        kind: AnyKind,
        alpha: Float[Array, "*b"],
        sigma: Float[Array, "*b"],
        dlogsnr_dt: Callable[[], Float[Array, "*b"]],
    ) -> Float[Array, "*b"]:
        """The factor [*b]; dlogsnr_dt gives the schedule's d logsnr / dt, where it is needed."""
        ...


class _Named:
    formula: ClassVar[losses.Weighting]

    def weight(
        self,
        kind: AnyKind,
        alpha: Float[Array, "*b"],
        sigma: Float[Array, "*b"],
        dlogsnr_dt: Callable[[], Float[Array, "*b"]],
    ) -> Float[Array, "*b"]:
        """See `losses.weight`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        slope = dlogsnr_dt() if self.formula == "sigmoid" else None
        return losses.weight(self.formula, kind, alpha, sigma, dlogsnr_dt=slope, **options)


def _positive(field: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise InputError(f"process.weighting.{field}: {value} must be positive and finite")


@dataclasses.dataclass(frozen=True)
class Simple(_Named):
    """1, whatever the kind."""

    formula: ClassVar[losses.Weighting] = "simple"


@dataclasses.dataclass(frozen=True)
class MinSNR(_Named):
    """min(snr, gamma) on x0's error: Hang et al. 2023 (arXiv 2303.09556), section 3.4."""

    formula: ClassVar[losses.Weighting] = "min_snr"

    gamma: float = 5.0
    """The largest weight."""

    def __post_init__(self) -> None:
        _positive("gamma", self.gamma)


@dataclasses.dataclass(frozen=True)
class SoftMinSNR(_Named):
    """gamma snr / (snr + gamma) on x0's error: Crowson et al. 2024 (arXiv 2401.11605)."""

    formula: ClassVar[losses.Weighting] = "soft_min_snr"

    gamma: float = 5.0
    """The weight that large signal-to-noise ratios approach."""

    def __post_init__(self) -> None:
        _positive("gamma", self.gamma)


@dataclasses.dataclass(frozen=True)
class P2(_Named):
    """1 / (k + snr)^gamma on eps' error: Choi et al. 2022 (arXiv 2204.00227), eq. 8."""

    formula: ClassVar[losses.Weighting] = "p2"

    gamma: float = 1.0
    """The exponent."""
    k: float = 1.0
    """Added to the signal-to-noise ratio."""

    def __post_init__(self) -> None:
        _positive("k", self.k)
        if not 0.0 <= self.gamma < math.inf:
            raise InputError(f"process.weighting.gamma: {self.gamma} must be at least 0 and finite")


@dataclasses.dataclass(frozen=True)
class EDMWeight(_Named):
    """(rho^2 + s^2) / (rho s)^2 on x0's error: Karras et al. 2022 (arXiv 2206.00364), table 1."""

    formula: ClassVar[losses.Weighting] = "edm"

    sigma_data: float = 0.5
    """Standard deviation s of the data."""

    def __post_init__(self) -> None:
        _positive("sigma_data", self.sigma_data)


@dataclasses.dataclass(frozen=True)
class VWeight(_Named):
    """1 on v's error, "SNR + 1": Salimans & Ho 2022 (arXiv 2202.00512), section 4."""

    formula: ClassVar[losses.Weighting] = "v"


@dataclasses.dataclass(frozen=True)
class SigmoidWeight(_Named):
    """sigmoid(bias - logsnr) on eps' error, per log-SNR: Kingma & Gao 2023 (arXiv 2303.00848), table 1."""

    formula: ClassVar[losses.Weighting] = "sigmoid"

    bias: float = -3.0
    """The log-SNR at which it is a half."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.bias):
            raise InputError(f"process.weighting.bias: {self.bias} must be a finite number")


Weighting: TypeAlias = Simple | MinSNR | SoftMinSNR | P2 | EDMWeight | VWeight | SigmoidWeight
"""All of them; a new one is one more class here."""
