"""Super-resolution: a small version of the image, joined to z (LDM, arXiv 2112.10752, section 4.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.building import Given, check_dropout
from ldm_jax.conditions.images import averaged, cached_image, given_images
from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning


@dataclasses.dataclass(frozen=True)
class LowResolution:
    """The example averaged over blocks of `factor`, brought to the latents' size."""

    label: ClassVar[str] = "low_resolution"

    factor: int = 4
    """How many times smaller it is, along each axis."""
    noise: float = 0.0
    """Largest standard deviation of the Gaussian noise added in training (Ho et al. 2021, arXiv 2106.15282, 4.2)."""
    dropout: float = 0.0
    """Share of examples trained without it, for guidance."""

    def __post_init__(self) -> None:
        check_dropout(self.label, self.dropout)
        if self.factor < 2 or self.noise < 0.0:
            raise InputError(f"conditions.{self.label}: factor ({self.factor}) must be at least 2, noise 0 or more")

    def build(self, given: Given) -> LowResolutionCondition:
        """The condition for examples of this shape, whose sides `factor` must divide."""
        *space, channels = given.example
        if any(side % self.factor for side in space):
            raise InputError(f"conditions.{self.label}.factor: {self.factor} must divide the examples' sides {space}")
        small = tuple(side // self.factor for side in space)
        return LowResolutionCondition(self, small, given.latent[:-1], channels)


@dataclasses.dataclass(frozen=True)
class LowResolutionCondition:
    """See `Condition`; the arrays are {"low": uint8 or float32 [*small c]}."""

    config: LowResolution
    small: tuple[int, ...]
    space: tuple[int, ...]
    channels: int
    name: str = "low_resolution"
    fields: ClassVar[tuple[str, ...]] = ("image",)
    asks: ClassVar[tuple[str, ...]] = ("image",)

    @property
    def dropout(self) -> float | None:
        return self.config.dropout

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name, "factor": self.config.factor, "small": list(self.small)}

    def read(self, example: Example) -> Sequence[Arrays]:
        x, f = np.asarray(example.image), self.config.factor
        low = averaged(x[None].astype(np.float32), f)[0]
        return [{"low": low.round().astype(np.uint8) if x.dtype == np.uint8 else low}]

    def embed(self, arrays: Arrays) -> Arrays:
        return arrays

    def init(self, key: Array) -> Params:
        return {}

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        x = cached_image(arrays["low"])
        if keys is not None and self.config.noise:
            level_keys, noise_keys = jax.vmap(jax.random.split)(keys).T
            level = self.config.noise * jax.vmap(jax.random.uniform)(level_keys)
            noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(noise_keys)
            x = x + level.reshape(-1, *(1,) * (x.ndim - 1)) * noise
        return Conditioning(image=jax.image.resize(x, (len(x), *self.space, self.channels), "linear"))

    def null(self, arrays: Arrays) -> Arrays:
        low = arrays["low"]
        return {"low": np.full(np.shape(low), 128 if low.dtype == np.uint8 else 0, low.dtype)}

    def ask(self, size: Size, **given: Any) -> Asked:
        """image: [m *small c], uint8 or in [-1, 1]."""
        image = given.get("image")
        if image is None:
            raise InputError(f"image: this model enlarges images; give [n {' '.join(map(str, self.small))} c]")
        return Asked({"low": given_images("image", image, (*self.small, self.channels))})
