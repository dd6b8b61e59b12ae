"""LatentDiffusion: the parts of a trained model together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ldm_jax.conditions import Condition, LabelCondition, Size, TextCondition, TextConditioner, in_range
from ldm_jax.diffusion.process import Process
from ldm_jax.errors import InputError, told_as
from ldm_jax.images import is_picture
from ldm_jax.metrics.rounding import to_uint8
from ldm_jax.models import Conditioning
from ldm_jax.pipeline import adapters, writing
from ldm_jax.pipeline.asking import GuidedConditioning, number_of, tell
from ldm_jax.pipeline.classes import Classes
from ldm_jax.pipeline.compiled import (
    Denoiser,
    FirstStage,
    Memory,
    decode_batch,
    denoiser,
    encode_batch,
    rows,
    sample_batch,
)
from ldm_jax.pipeline.devices import dividing, mesh_of, split
from ldm_jax.pipeline.recipe import AnySampler, Recipe, Sampling, Scheduler, sampler_named
from ldm_jax.pipeline.uses import Uses
from ldm_jax.tasks import Generate, Task


@dataclasses.dataclass(frozen=True, eq=False)
class LatentDiffusion(Uses, Classes):
    """A trained model, ours or a published one; every method is a pure function of its fields and arguments."""

    autoencoder: FirstStage
    autoencoder_params: Any
    latent_mean: Float[np.ndarray, "c"]
    """Per-channel mean of the raw latents over the training set; a published model's shift factor."""
    latent_std: Float[np.ndarray, "c"]
    """Per-channel standard deviation, likewise; one over a published model's scaling factor."""
    shape: tuple[int, ...]
    """[*space c] of the signals that it was made for: [h w c] of images."""
    denoiser: Denoiser | None = None
    """None where only the first stage is trained."""
    denoiser_params: Any = None
    process: Process = Process()
    """What the denoiser was trained for."""
    sampling: Sampling = Sampling()
    conditions: tuple[Condition, ...] = ()
    """What the denoiser is told."""
    condition_params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of conditions that were trained with it, by their names."""
    scheduler: Scheduler | None = None
    """The scheduler of a published pipeline, which may stand for sampler and grid."""
    published: str | None = None
    """diffusers' name of the pipeline, such as StableDiffusionPipeline; None for our own models."""

    def condition(self, kind: type) -> Any:
        """The condition of this class, or None."""
        return next((condition for condition in self.conditions if isinstance(condition, kind)), None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the denoiser knows by name."""
        label = self.condition(LabelCondition)
        return () if label is None else label.class_names

    @property
    def num_classes(self) -> int:
        """Classes that the denoiser knows, 0 where it is unconditional or takes prompts."""
        return len(self.class_names)

    @property
    def text(self) -> TextConditioner | None:
        """What reads prompts; None where the model takes none."""
        found = self.condition(TextCondition)
        return None if found is None else found.encoders

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that it was made for."""
        return self.shape[0]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[*space c] of one signal's latents, at the model's own size."""
        factor = self.autoencoder.config.factor
        return (*(side // factor for side in self.shape[:-1]), len(self.latent_mean))

    @property
    def image_channels(self) -> int:
        """Channels of `cond.image`, which is concatenated to z; 0 for most models."""
        return self.denoiser.config.in_channels - len(self.latent_mean) if self.denoiser else 0

    def encode(
        self, images: Any, key: Array | None = None, *, tile: int = 0, sliced: bool = False
    ) -> Float[Array, "b ... _"]:
        """Signals [b *space c] to normalised latents: the posterior's mean, or with a key a sample of it.

        images: floats in [-1, 1], or uint8, which is converted. tile: side in pixels of the tiles that large images are
        cut into, which are blended; 0 for none. sliced: one image after the other. Both save memory; see
        `ldm_jax.models.tiling`.
        """
        config = self.autoencoder.config
        if np.ndim(images) != len(self.shape) + 1:
            wanted = " ".join("hw"[: len(self.shape) - 1]) if len(self.shape) == 3 else "*space"
            raise InputError(f"images: {np.shape(images)} must be [n {wanted} {config.image_channels}]")
        _, *space, c = np.shape(images)
        if any(side % config.factor for side in space) or c != config.image_channels:
            raise InputError(
                f"images: {'x'.join(map(str, (*space, c)))} must have sides that are multiples of {config.factor} "
                f"and {config.image_channels} channels"
            )
        x = images if isinstance(images, Tracer) else in_range("images", images)
        memory, params = Memory(self._tile(tile) * config.factor, sliced), self.autoencoder_params
        x = jnp.asarray(x, jnp.float32)
        return encode_batch(self.autoencoder, params, *self._statistics(), x, key, memory, dividing(params, len(x)))

    def decode(
        self, z: Float[Array | np.ndarray, "b ... _"], *, tile: int = 0, sliced: bool = False
    ) -> Float[Array, "b ... _"]:
        """Normalised latents to signals in [-1, 1]; tile (in pixels) and sliced as in `encode`.

        What the decoder does not give a finite number for is NaN.
        """
        memory, params, z = Memory(self._tile(tile), sliced), self.autoencoder_params, jnp.asarray(z, jnp.float32)
        x = decode_batch(self.autoencoder, params, *self._statistics(), z, memory, dividing(params, len(z)))
        # What is not finite stays so, for whoever looks; clipped, infinity would be white.
        return jnp.where(jnp.isfinite(x), jnp.clip(x, -1.0, 1.0), jnp.nan)

    def _tile(self, tile: int) -> int:
        """A tile's side in latents; a quarter of it, which neighbours share, must be whole."""
        step = 4 * self.autoencoder.config.factor
        if tile < 0 or tile % step:
            raise InputError(f"tile: {tile} must be 0 or a multiple of {step} pixels")
        return tile // self.autoencoder.config.factor

    def _statistics(self) -> tuple[Array, Array]:
        return jnp.asarray(self.latent_mean, jnp.float32), jnp.asarray(self.latent_std, jnp.float32)

    def sample(
        self,
        key: Any,
        *,
        num: Any = None,
        steps: Any = None,
        guidance: Any = None,
        sampler: str | AnySampler | None = None,
        batch_size: Any = 64,
        first: int = 0,
        cond: Conditioning | None = None,
        null: Conditioning | None = None,
        latents: Float[Any, "n ... _"] | None = None,
        height: Any = None,
        width: Any = None,
        compat: str | None = None,
        output: Literal["images", "latents"] = "images",
        tile: int = 0,
        told: GuidedConditioning | None = None,
        task: Task = Generate(),  # noqa: B008
        arrays: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> Any:
        """Images uint8 [n h w c]; image i depends on the key, i and its condition alone, not on n or batch_size.

        given: what the model's conditions ask for: `labels` (indices or names of classes), `prompts` and `negative`
        (texts), `image`, ... With `num` larger than their number they are repeated in turn; without labels a
        class-conditional model goes through its classes. num: images to draw (as many as what is given, or 1). steps,
        guidance, sampler: the model's own where None; guidance may be [n]. One compilation serves every seed, label
        and scale other than 1, which needs one branch alone. key: one, or [n], one an image. first: the place of the
        first image, to draw a part of a larger set again. batch_size: images at a time; the devices that the
        parameters are on share them equally (see `load`), so it is rounded up to a multiple of these.

        cond, null: embeddings of one's own, as `model.text` gives them, for both branches of guidance. latents: the
        initial noise, standard normal, in place of that drawn from the key. height, width: of the images. compat:
        "diffusers" reproduces a published scheduler with its quirks, see `ldm_jax.pretrained.schedulers`. tile: see
        `decode`. told: what `tell` gave, in place of all that is asked for. task, arrays [n ...]:
        another way of drawing, see `ldm_jax.tasks`, and what it takes. output: "latents" are normalised and not
        decoded. Signals that are no pictures are floats in [-1, 1]. Within jit the same is computed, and nothing
        is said of what is not finite.
        """
        if output not in ("images", "latents"):
            raise InputError(f"output: {output!r} must be images or latents")
        recipe, size = self._recipe(steps, sampler, compat, latents, height, width, given)
        asked = tell(self, size, cond, null, guidance, given) if told is None else told
        n = number_of(num, latents, asked)
        out = []
        for z, kept in self._batches(key, n, asked, recipe, size, batch_size, first, latents, task, arrays or {}):
            traced = isinstance(z, Tracer)
            if not traced and not np.isfinite(np.asarray(z[:kept])).all():
                raise InputError("model: it draws NaN or infinity; its weights, or what it is told, are not finite")
            found = self._shown(z, tile) if output == "images" else z
            out.append(found[:kept] if traced else np.asarray(found)[:kept])
        return jnp.concatenate(out) if isinstance(out[0], Tracer) else np.concatenate(out)

    def _shown(self, z: Array, tile: int = 0) -> Array:
        x = self.decode(z, tile=tile)
        if not isinstance(x, Tracer) and not bool(jnp.isfinite(x).all()):
            raise InputError("model: its decoder gives NaN or infinity; its weights are not finite")
        return to_uint8(x) if is_picture(self.shape) else x

    def recipe(self, steps: Any = None, sampler: str | AnySampler | None = None) -> Recipe:
        """How samples would be drawn, the model's own where None; InputError for what can't be."""
        return self._recipe(steps, sampler, None, None, None, None, {})[0]

    def _recipe(
        self, steps: Any, sampler: Any, compat: Any, latents: Any, height: Any, width: Any, given: Mapping[str, Any]
    ) -> tuple[Recipe, Size]:
        """How to draw, and what size of latents; InputError for what can't be."""
        if self.denoiser is None:
            raise InputError("model: it holds an autoencoder alone; train the denoiser to sample")
        *space, channels = self._space(latents, height, width, given)
        patch = getattr(self.denoiser.config, "patch", 1)
        recipe = Recipe(
            self.process,
            sampler_named(
                self.sampling.sampler if sampler is None else sampler,
                self.sampling.sampler,
                self.scheduler is not None,
            ),
            self.sampling.steps if steps is None else steps,
            self.sampling.grid,
            self.scheduler,
            compat,
            int(np.prod([side // patch for side in space])),
        )
        recipe.plan()
        return recipe, Size(tuple(space), channels, self.autoencoder.config.factor)

    def _space(self, latents: Any, height: Any, width: Any, given: Mapping[str, Any]) -> tuple[int, ...]:
        """[*space c] of the latents to draw."""
        factor, own = self.autoencoder.config.factor, self.latent_shape
        if latents is not None:
            if np.ndim(latents) != len(own) + 1 or np.shape(latents)[-1] != own[-1]:
                raise InputError(
                    f"latents: {np.shape(latents)} must be [n {'h w' if len(own) == 3 else '*'} {own[-1]}]"
                )
            return tuple(np.shape(latents)[1:])
        joined = next((given[name] for name in ("image", "masked") if given.get(name) is not None), None)
        if self.published and joined is not None and self.image_channels:
            return (*np.shape(joined)[1:-1], own[-1])
        sides = list(own[:-1])
        step = factor * getattr(self.denoiser.config, "patch", 1) if self.denoiser else factor
        for axis, (name, wanted) in enumerate((("height", height), ("width", width))):
            if wanted is None:
                continue
            if len(own) != 3 or type(wanted) is not int or wanted < step or wanted % step:
                raise InputError(f"{name}: {wanted} must be a multiple of {step}")
            sides[axis] = wanted // factor
        return (*sides, own[-1])

    def _batches(
        self,
        key: Any,
        n: int,
        asked: GuidedConditioning,
        recipe: Recipe,
        size: Size,
        batch_size: Any,
        first: int,
        latents: Any,
        task: Task,
        arrays: Mapping[str, Any],
    ) -> Iterator[tuple[Array, int]]:
        """Latents of one batch after the other, and how many of them are wanted."""
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f"batch_size: {batch_size} must be at least 1")
        key = _typed_key(key)
        if key.shape not in ((), (n,)):
            raise InputError(f"key: {key.shape} must be one key, or one for each of {n} images")
        mesh, batch_size = mesh_of(self.denoiser_params), min(batch_size, n)
        mesh = None if split(self.denoiser_params) else mesh
        if mesh is not None:
            batch_size = -(-batch_size // mesh.size) * mesh.size
        for begin in range(0, n, batch_size):
            # The last batch is filled up and cut, so that every batch has the one compiled shape.
            place = np.minimum(np.arange(begin, begin + batch_size), n - 1)
            keys = key[place] if key.shape else jax.vmap(jax.random.fold_in, (None, 0))(key, place + first)
            noise, own = rows((latents, dict(arrays)), place)
            cond, null, guidance = rows((asked.cond, asked.null, asked.guidance), place + first)
            z = sample_batch(
                self.denoiser_params,
                keys,
                noise,
                cond,
                null,
                guidance,
                own,
                module=self.denoiser,
                recipe=recipe,
                rule=self.sampling.rule,
                task=task,
                shape=(*size.space, size.channels),
                mesh=mesh,
            )
            yield z, n - begin

    def denoise(
        self,
        cond: Conditioning | None = None,
        null: Conditioning | None = None,
        guidance: Any = 1.0,
    ) -> Any:
        """denoise(z [b *space c], t) -> Estimate, as `ldm_jax.sample` takes it; guided where `null` is given.

        cond, null: arrays [b ...] for as many examples as z will have; see `tell` for what makes them of labels or
        prompts. t: a scalar or [b] in [0, 1].
        """
        recipe = self.recipe()
        null = None if guidance == 1.0 else null
        assert self.denoiser is not None
        cond = Conditioning() if cond is None else cond
        return denoiser(self.denoiser, recipe, self.sampling.rule, self.denoiser_params, cond, null, guidance)

    def tell(self, guidance: Any = None, **given: Any) -> GuidedConditioning:
        """What the denoiser is told for labels, prompts, ...: cond and null (None: no guidance), arrays [m ...]."""
        _, size = self._recipe(None, None, None, None, None, None, given)
        return tell(self, size, None, None, guidance, given)

    def load_lora(self, path: str | Path, weight: Any = 1.0) -> LatentDiffusion:
        """The model with a LoRA merged into it: denoiser and text encoders, `weight` times as strong as it says.

        path: a file of diffusers, PEFT or kohya, or a folder with one (docs/weights.md). Several add up.
        """
        with told_as("lora"):
            return adapters.with_lora(self, path, weight)

    def load_embedding(self, path: str | Path, token: str | None = None) -> LatentDiffusion:
        """The model with a new word in its prompts, from a file of textual inversion (diffusers' or A1111's).

        token: how it is written in prompts; the file's own name for it where None.
        """
        with told_as("embedding"):
            return adapters.with_word(self, path, token)

    def save(self, path: str | Path) -> None:
        """Writes the model's folder: model_index.json and the parts, each with config.json and safetensors.

        A published pipeline's folder is as diffusers has it.
        """
        writing.save(self, Path(path))


def _typed_key(key: Any) -> Array:
    if isinstance(key, int) or not hasattr(key, "dtype"):
        raise InputError(f"key: {key!r} must be a key, such as jax.random.key(0)")
    return jax.random.wrap_key_data(key) if jnp.issubdtype(key.dtype, jnp.uint32) else key
