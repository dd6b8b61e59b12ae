"""A model that shows what it draws while it draws: every estimate of x0, on its way through the one compiled scan."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.diffusion.samplers import StatefulDenoise
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.pretrained.schedulers import SamplingPlan
from ldm_jax.tasks import Generate, Task


class Seen(NamedTuple):
    """One evaluation of the denoiser."""

    t: float
    """Its time."""
    z: Float[np.ndarray, "b ..."]
    """The noisy latents."""
    x0: Float[np.ndarray, "b ..."]
    """The estimate of the clean ones, guided."""


_listener: Callable[[Seen], None] | None = None
_one = threading.Lock()


@contextmanager
def listening(listener: Callable[[Seen], None]) -> Iterator[None]:
    """Within it `listener` is told of every evaluation; one drawing at a time is listened to, others wait here."""
    global _listener
    with _one:
        _listener = listener
        try:
            yield
        finally:
            jax.effects_barrier()
            _listener = None


def _tell(t: Any, z: Any, x0: Any) -> None:
    if _listener is not None:
        _listener(Seen(float(np.max(t)), np.asarray(z), np.asarray(x0)))


@dataclasses.dataclass(frozen=True)
class Watched:
    """A task whose evaluations are told to whoever listens."""

    task: Task = Generate()

    def draw(
        self, denoise: Any, plan: SamplingPlan, noise: Float[Array, "b ..."], arrays: Mapping[str, Array], keys: Array
    ) -> Float[Array, "b ..."]:
        """See `Task`."""

        def told(z: Array, t: Array, estimate: Any) -> Any:
            jax.debug.callback(_tell, t, z.astype(jnp.float32), estimate.x0.astype(jnp.float32), ordered=True)
            return estimate

        def plain(z: Array, t: Array) -> Any:
            return told(z, t, denoise(z, t))

        def apply(z: Array, t: Array, memory: Any) -> tuple[Any, Any]:
            estimate, memory = denoise.apply(z, t, memory)
            return told(z, t, estimate), memory

        own = denoise._replace(apply=apply) if isinstance(denoise, StatefulDenoise) else plain
        return self.task.draw(own, plan, noise, arrays, keys)


class WatchedDiffusion(LatentDiffusion):
    """A `LatentDiffusion` each of whose drawings can be listened to."""

    def sample(self, key: Any, *, task: Task = Generate(), **given: Any) -> Any:  # noqa: B008
        """See `LatentDiffusion.sample`."""
        return super().sample(key, task=Watched(task), **given)


def watched(model: LatentDiffusion) -> WatchedDiffusion:
    """The same model, watched."""
    return WatchedDiffusion(**{field.name: getattr(model, field.name) for field in dataclasses.fields(model)})
