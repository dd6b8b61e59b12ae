"""Latent diffusion models in JAX and Flax: from a folder of images to a model, its samples and its numbers.

Nothing is imported before it is used: `import ldm_jax` takes no time, and a command answers Ctrl-C from its start.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_jax.config import Config
    from ldm_jax.diffusion import grids, guidance, samplers, schedules
    from ldm_jax.diffusion.samplers import sample
    from ldm_jax.pipeline import LatentDiffusion, load

    __version__: str

__all__ = ["Config", "LatentDiffusion", "__version__", "grids", "guidance", "load", "sample", "samplers", "schedules"]

_HOMES = {
    "Config": "config",
    "LatentDiffusion": "pipeline",
    "grids": "diffusion",
    "guidance": "diffusion",
    "load": "pipeline",
    "sample": "diffusion.samplers",
    "samplers": "diffusion",
    "schedules": "diffusion",
}
"""The module that each public name is defined in."""


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, imported at its first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("ldm-jax")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
