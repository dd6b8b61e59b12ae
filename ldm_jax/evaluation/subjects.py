"""What is evaluated: a model, which draws, rebuilds and is timed, or samples that somebody drew before."""

from __future__ import annotations

import dataclasses
import hashlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import metrics, seeds
from ldm_jax.data import to_float
from ldm_jax.errors import InputError
from ldm_jax.evaluation.sets import ImageSet, check_finite, folder_set, npz_set
from ldm_jax.metrics import Rounding
from ldm_jax.pipeline import LatentDiffusion, everywhere, load
from ldm_jax.pipeline.layouts import model_folder
from ldm_jax.pipeline.streaming import stream

LabelPolicy = Literal["balanced", "random"]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How a model's samples are drawn; None: as the model has it."""

    num: int
    sampler: str
    steps: int
    guidance: float
    seed: int
    labels: LabelPolicy
    batch_size: int
    rounding: Rounding


@dataclasses.dataclass(frozen=True, eq=False)
class ModelSubject:
    """A model and where it was read from."""

    path: Path
    model: LatentDiffusion

    @property
    def shape(self) -> tuple[int, int, int]:
        """[h w c] of its images."""
        size = self.model.image_size
        return size, size, self.model.autoencoder.config.image_channels

    def conditions(self, drawing: Drawing, captions: Sequence[str] | None) -> tuple[dict[str, Any], str | None]:
        """The keywords of `sample` that say what to draw, and the policy's name for the report."""
        if self.model.text is not None:
            if not captions or not any(captions):
                raise InputError("reference: this model draws from texts; name a source whose images have captions")
            return {"prompts": [captions[i % len(captions)] for i in range(drawing.num)]}, "captions"
        if not self.model.num_classes:
            return {}, None
        if drawing.labels == "balanced":
            return {"labels": [i % self.model.num_classes for i in range(drawing.num)]}, "balanced"
        rng = np.random.default_rng(drawing.seed)
        return {"labels": rng.integers(self.model.num_classes, size=drawing.num).tolist()}, "random"

    def draw(self, drawing: Drawing, conditions: dict[str, Any]) -> Iterator[np.ndarray]:
        """Batches uint8 [b h w c] of the images that `sample.py` draws with the same arguments."""
        for latents in self._latents(drawing, conditions):
            yield self._decode(latents, drawing.batch_size, drawing.rounding)

    def _latents(self, drawing: Drawing, conditions: dict[str, Any]) -> Iterator[np.ndarray]:
        return stream(
            self.model,
            seeds.key(drawing.seed),
            drawing.num,
            batch_size=drawing.batch_size,
            steps=drawing.steps,
            guidance=drawing.guidance,
            sampler=drawing.sampler,
            output="latents",
            **conditions,
        )

    def _sample(self, drawing: Drawing, conditions: dict[str, Any], output: str) -> np.ndarray:
        return np.asarray(
            self.model.sample(
                seeds.key(drawing.seed),
                num=drawing.num,
                steps=drawing.steps,
                guidance=drawing.guidance,
                sampler=drawing.sampler,
                batch_size=drawing.batch_size,
                output=output,  # type: ignore[arg-type]
                **conditions,
            )
        )

    def _decode(self, z: Any, batch_size: int, rounding: Rounding) -> np.ndarray:
        x = np.asarray(self.model.decode(jnp.asarray(_filled(z, batch_size))))[: len(z)]
        check_finite(x, "samples")
        return np.asarray(metrics.to_uint8(jnp.asarray(x), rounding))

    def rebuild(
        self,
        images: ImageSet,
        batch_size: int,
        rounding: Rounding,
        see: Callable[[np.ndarray, np.ndarray], None] = lambda x, y: None,
    ) -> Iterator[np.ndarray]:
        """Batches of reconstructions uint8 (through the posterior's mean); `see` gets each with its originals."""
        for x in images.stream(batch_size):
            z = self.model.encode(jnp.asarray(to_float(_filled(x, batch_size))))
            y = self._decode(z, batch_size, rounding)[: len(x)]
            see(x, y)
            yield y

    def speed(self, drawing: Drawing, conditions: dict[str, Any], repeats: int = 3) -> dict[str, float]:
        """Images/s of sampling and decoding a batch, ms of a sampler's step on it, and the peak of memory so far.

        Medians of `repeats` after a first run that compiles.
        """
        drawing = dataclasses.replace(drawing, num=min(drawing.num, drawing.batch_size))
        conditions = {name: values[: drawing.num] for name, values in conditions.items()}
        times = {}
        for output in ("images", "latents"):
            self._sample(drawing, conditions, output)
            laps = []
            for _ in range(repeats):
                start = time.perf_counter()
                self._sample(drawing, conditions, output)
                laps.append(time.perf_counter() - start)
            times[output] = statistics.median(laps)
        name, peak = peak_memory()
        return {
            "images/s": drawing.num / times["images"],
            "ms/step": 1000 * times["latents"] / drawing.steps,
            name: peak,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class SamplesSubject:
    """Images that somebody drew."""

    path: Path
    images: ImageSet

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images.shape


def open_subject(path: Path, rounding: Rounding) -> ModelSubject | SamplesSubject:
    """What `path` names: samples (.npz with arr_0, or a folder of pictures) or a model.

    Raises:
      InputError: it is missing, or none of these.
    """
    if not path.exists():
        raise InputError(f"model_or_samples: {path} does not exist")
    if path.suffix == ".npz":
        return SamplesSubject(path, npz_set(path, rounding))
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise InputError(f"model_or_samples: {path} is one picture; name an .npz or a folder of pictures")
    is_model = path.is_file() or model_folder(path) is not None
    if is_model or not any(p.is_file() for p in path.iterdir()) or (path / "config.json").is_file():
        return ModelSubject(path, load(path, sharding=everywhere()))
    return SamplesSubject(path, folder_set(path))


def hash_weights(path: Path) -> str:
    """sha256 over the names and bytes of a model's .safetensors files (of the file, where it is one)."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted((path / "model" if (path / "model").is_dir() else path).rglob("*"))
    for file in files:
        if file.is_file() and (file == path or file.suffix == ".safetensors"):
            digest.update(file.name.encode())
            with file.open("rb") as opened:
                while chunk := opened.read(1 << 22):
                    digest.update(chunk)
    return digest.hexdigest()


def peak_memory() -> tuple[str, float]:
    """The name and the value, in MiB, of the most memory used so far: the device's, else the whole process's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return "peak memory (MiB, device)", stats["peak_bytes_in_use"] / 2**20
    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return "peak memory (MiB, process)", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _filled(batch: Any, size: int) -> Any:
    """The batch with its last row repeated up to `size` rows: every batch has the one compiled shape."""
    return batch[np.minimum(np.arange(size), len(batch) - 1)]
