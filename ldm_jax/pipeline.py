"""LatentDiffusion: the parts of a trained model together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ldm_jax.config import DiffusionConfig, SamplingConfig, from_dict
from ldm_jax.diffusion import grids, samplers
from ldm_jax.diffusion.guidance import branches, classifier_free
from ldm_jax.diffusion.prediction import Estimate, estimate
from ldm_jax.diffusion.schedules import Cosine, DiscreteBetas, RectifiedFlow, Schedule
from ldm_jax.errors import InputError
from ldm_jax.models import Autoencoder, Conditioning, DiT, apply
from ldm_jax.pretrained.parts import load_part, read_json, save_part
from ldm_jax.pretrained.writing import write_json

Images = Float[Array, "b h w c"]


def make_schedule(config: DiffusionConfig) -> Schedule:
    """The schedule that a config names."""
    if config.schedule == "rectified_flow":
        return RectifiedFlow()
    if config.schedule == "cosine":
        return Cosine()
    start, end = (0.0001, 0.02) if config.schedule == "linear" else (0.00085, 0.012)
    return DiscreteBetas(config.schedule, start, end)


def to_uint8(images: Images) -> UInt8[Array, "b h w c"]:
    """[-1, 1] to 0..255: round(127.5 x + 127.5), clamped."""
    return jnp.clip(jnp.round(127.5 * images + 127.5), 0, 255).astype(jnp.uint8)


@partial(jax.jit, static_argnames="module")
def _encode(module: Autoencoder, params: Any, mean: Array, std: Array, x: Array, key: Array | None) -> Array:
    posterior = apply(module, params, x, method="encode")
    z = posterior.mean
    if key is not None:
        z = posterior.sample(samplers.normal(samplers.example_keys(key, len(x)), z))
    return (z - mean[None, None, None]) / std[None, None, None]


@partial(jax.jit, static_argnames="module")
def _decode(module: Autoencoder, params: Any, mean: Array, std: Array, z: Array) -> Array:
    return apply(module, params, z * std[None, None, None] + mean[None, None, None], method="decode")


@partial(jax.jit, static_argnames=("module", "diffusion", "sampler", "steps", "interval", "shape"))
def _sample(
    params: Any,
    keys: Array,
    labels: Array | None,
    guidance: Array,
    *,
    module: DiT,
    diffusion: DiffusionConfig,
    sampler: str,
    steps: int,
    interval: tuple[float, float],
    shape: tuple[int, ...],
) -> Array:
    schedule = make_schedule(diffusion)

    def denoise(z: Array, t: Array, cond: Conditioning) -> Estimate:
        output = apply(module, params, z, jnp.broadcast_to(t, z.shape[:1]), cond)
        return estimate(diffusion.prediction, output, z, schedule.alpha(t), schedule.sigma(t))

    if labels is None:
        guided = partial(denoise, cond=Conditioning())
    else:
        null = jnp.full_like(labels, module.config.num_classes)
        pair = branches(denoise, Conditioning(label=labels), Conditioning(label=null))
        guided = classifier_free(pair, guidance, interval)
    start, steps_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(2))
    z = samplers.normal(start, jnp.zeros((len(keys), *shape)))
    z = schedule.sigma(jnp.ones(())) * z
    return samplers.sample(guided, samplers.SAMPLERS[sampler](), schedule, grids.linspace(steps), z, steps_keys)


@dataclasses.dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A trained model; every method is a pure function of its fields and arguments."""

    autoencoder: Autoencoder
    autoencoder_params: Any
    latent_mean: Float[np.ndarray, "c"]
    """Per-channel mean of the raw latents over the training set."""
    latent_std: Float[np.ndarray, "c"]
    """Per-channel standard deviation, likewise."""
    image_size: int
    denoiser: DiT | None = None
    """None where only the first stage is trained."""
    denoiser_params: Any = None
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()
    class_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Classes that the denoiser knows, 0 where it is unconditional."""
        return self.denoiser.config.num_classes if self.denoiser else 0

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[h w c] of one image's latents."""
        side = self.image_size // self.autoencoder.config.factor
        return side, side, self.autoencoder.config.latent_channels

    def encode(self, images: Images, key: Array | None = None) -> Float[Array, "b lh lw lc"]:
        """Images [b h w c] in [-1, 1] to normalised latents: the posterior's mean, or with a key a sample of it."""
        config = self.autoencoder.config
        _, h, w, c = images.shape
        if h % config.factor or w % config.factor or c != config.image_channels:
            raise InputError(
                f"images: {h}x{w}x{c} must have sides that are multiples of {config.factor} "
                f"and {config.image_channels} channels"
            )
        stats = jnp.asarray(self.latent_mean), jnp.asarray(self.latent_std)
        return _encode(self.autoencoder, self.autoencoder_params, *stats, jnp.asarray(images, jnp.float32), key)

    def decode(self, z: Float[Array, "b lh lw lc"]) -> Images:
        """Normalised latents to images in [-1, 1]."""
        stats = jnp.asarray(self.latent_mean), jnp.asarray(self.latent_std)
        return jnp.clip(_decode(self.autoencoder, self.autoencoder_params, *stats, z), -1.0, 1.0)

    def sample(
        self,
        key: Array,
        *,
        labels: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        num: int | None = None,
        steps: int | None = None,
        guidance: float | int | None = None,
        sampler: str | None = None,
        batch_size: int = 64,
    ) -> UInt8[np.ndarray, "n h w c"]:
        """Images uint8 [n h w c]; image i depends on the key, i and its label alone, not on n or batch_size.

        labels: one class an image; with `num` larger than their number they are repeated in turn. Without labels a
        class-conditional model goes through its classes in turn. num: images to draw (as many as labels, or 1).
        steps, guidance, sampler: the model's own where None. One compilation serves every seed, label and guidance.
        """
        labels_array, n = self._labels(labels, prompts, num)
        steps = self.sampling.steps if steps is None else steps
        sampler = self.sampling.sampler if sampler is None else sampler
        guidance = self.sampling.guidance if guidance is None else guidance
        if self.denoiser is None:
            raise InputError("model: it holds an autoencoder alone; train the denoiser to sample")
        if sampler not in samplers.SAMPLERS:
            raise InputError(f"sampler: {sampler!r} must be one of {', '.join(samplers.SAMPLERS)}")
        for name, value in (("steps", steps), ("num", n), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"{name}: {value} must be at least 1")
        batch_size = min(batch_size, n)
        draw = partial(
            _sample,
            module=self.denoiser,
            diffusion=self.diffusion,
            sampler=sampler,
            steps=steps,
            interval=self.sampling.interval,
            shape=self.latent_shape,
        )
        if jnp.issubdtype(key.dtype, jnp.uint32):
            key = jax.random.wrap_key_data(key)
        out = []
        for begin in range(0, n, batch_size):
            # The last batch is filled up and cut, so that every batch has the one compiled shape.
            place = np.minimum(np.arange(begin, begin + batch_size), n - 1)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place)
            chosen = None if labels_array is None else jnp.asarray(labels_array[place])
            z = draw(self.denoiser_params, keys, chosen, jnp.asarray(guidance, jnp.float32))
            out.append(np.asarray(to_uint8(self.decode(z)))[: n - begin])
        return np.concatenate(out)

    def _labels(
        self, labels: Sequence[int] | None, prompts: Sequence[str] | None, num: int | None
    ) -> tuple[np.ndarray | None, int]:
        if prompts is not None:
            raise InputError(
                "prompt: this model has no text encoder; it takes labels"
                if self.num_classes
                else "prompt: this model has no text encoder and no classes"
            )
        if not self.num_classes:
            if labels is not None:
                raise InputError("label: this model is unconditional")
            return None, 1 if num is None else num
        chosen = np.arange(self.num_classes) if labels is None else np.asarray(labels, np.int64).reshape(-1)
        for label in chosen:
            if not 0 <= label < self.num_classes:
                raise InputError(f"label: {label} must be between 0 and {self.num_classes - 1}")
        if len(chosen) == 0:
            raise InputError(f"label: name one or more between 0 and {self.num_classes - 1}")
        n = (1 if labels is None else len(chosen)) if num is None else num
        return np.resize(chosen, max(n, 1)).astype(np.int32), n

    def save(self, path: str | Path) -> None:
        """Writes the model folder: model_index.json, vae/, transformer/, each with config.json and safetensors."""
        path = Path(path)
        statistics = {"latents_mean": self.latent_mean.tolist(), "latents_std": self.latent_std.tolist()}
        save_part(self.autoencoder, self.autoencoder_params, path / "vae", extra=statistics)
        index: dict[str, Any] = {
            "_class_name": "LatentDiffusion",
            "_library": "ldm_jax",
            "vae": ["ldm_jax", "Autoencoder"],
            "image_size": self.image_size,
            "diffusion": dataclasses.asdict(self.diffusion),
            "sampling": dataclasses.asdict(self.sampling),
            "class_names": list(self.class_names),
        }
        if self.denoiser is not None:
            save_part(self.denoiser, self.denoiser_params, path / "transformer")
            index["transformer"] = ["ldm_jax", type(self.denoiser).__name__]
        write_json(path / "model_index.json", index)


def load(path: str | Path) -> LatentDiffusion:
    """The model in a folder that `LatentDiffusion.save` wrote (or in the model/ folder of a run's folder)."""
    path = Path(path)
    if not (path / "model_index.json").is_file() and (path / "model" / "model_index.json").is_file():
        path = path / "model"
    if not (path / "model_index.json").is_file():
        raise InputError(f"model: {path} has no model_index.json; name a finished run's folder or its model/")
    index = read_json(path / "model_index.json")
    if index.get("_class_name") != "LatentDiffusion":
        raise InputError(f"model: _class_name {index.get('_class_name')!r} of {path} is not LatentDiffusion")
    autoencoder, autoencoder_params = load_part(path / "vae")
    statistics = read_json(path / "vae" / "config.json")
    denoiser, denoiser_params = load_part(path / "transformer") if "transformer" in index else (None, None)
    if not isinstance(autoencoder, Autoencoder) or not isinstance(denoiser, DiT | None):
        raise InputError(f"model: {path} needs an Autoencoder in vae/ and a DiT in transformer/")
    try:
        return LatentDiffusion(
            autoencoder=autoencoder,
            autoencoder_params=jax.device_put(autoencoder_params),
            latent_mean=np.asarray(statistics["latents_mean"], np.float32),
            latent_std=np.asarray(statistics["latents_std"], np.float32),
            image_size=int(index["image_size"]),
            denoiser=denoiser,
            denoiser_params=jax.device_put(denoiser_params),
            diffusion=from_dict(DiffusionConfig, index["diffusion"], "diffusion."),
            sampling=from_dict(SamplingConfig, index["sampling"], "sampling."),
            class_names=tuple(index["class_names"]),
        )
    except KeyError as error:
        raise InputError(f"model: {path} lacks {error.args[0]}") from error
