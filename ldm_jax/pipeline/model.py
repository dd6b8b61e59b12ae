"""LatentDiffusion: the parts of a trained model together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ldm_jax.config import DiffusionConfig, SamplingConfig
from ldm_jax.errors import InputError
from ldm_jax.metrics.rounding import to_uint8
from ldm_jax.models import Conditioning, DiT, UNet
from ldm_jax.pipeline.compiled import Denoiser, FirstStage, Memory, decode_batch, encode_batch, sample_batch
from ldm_jax.pipeline.devices import dividing, mesh_of
from ldm_jax.pipeline.process import Process, Scheduler
from ldm_jax.pipeline.prompts import TextConditioner

Images = Float[Array | np.ndarray, "b h w c"]


def rows(tree: Any, place: np.ndarray) -> Any:
    """Of every array [m ...] the rows `place`, counted round and round."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[place % len(leaf)], tree)


class Request(NamedTuple):
    """What is to be drawn; see `LatentDiffusion.sample`."""

    labels: Sequence[int] | None
    prompts: Sequence[str] | None
    num: int | None
    first: int
    negative: str | Sequence[str] | None
    cond: Conditioning | None
    null: Conditioning | None
    image: Any
    latents: Any
    height: int | None
    width: int | None

    def number(self) -> int:
        """How many images: as asked, or as many as there are things to draw from."""
        if self.num is not None:
            return self.num
        if self.latents is not None:
            return len(self.latents)
        given = (self.labels, self.prompts, self.image, *(self.cond or ()))
        return max((len(part) for part in given if part is not None), default=1)


@dataclasses.dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A trained model, ours or a published one; every method is a pure function of its fields and arguments."""

    autoencoder: FirstStage
    autoencoder_params: Any
    latent_mean: Float[np.ndarray, "c"]
    """Per-channel mean of the raw latents over the training set; a published model's shift factor."""
    latent_std: Float[np.ndarray, "c"]
    """Per-channel standard deviation, likewise; one over a published model's scaling factor."""
    image_size: int
    denoiser: Denoiser | None = None
    """None where only the first stage is trained."""
    denoiser_params: Any = None
    diffusion: DiffusionConfig | Scheduler = DiffusionConfig()
    """What the denoiser was trained for, or the scheduler of a published pipeline."""
    sampling: SamplingConfig = SamplingConfig()
    class_names: tuple[str, ...] = ()
    text: TextConditioner | None = None
    """What reads prompts; None where the model takes none."""
    published: str | None = None
    """diffusers' name of the pipeline, such as StableDiffusionPipeline; None for our own models."""

    @property
    def num_classes(self) -> int:
        """Classes that the denoiser knows, 0 where it is unconditional or takes prompts."""
        return self.denoiser.config.num_classes if isinstance(self.denoiser, DiT | UNet) else 0

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[h w c] of one image's latents, at the model's own image size."""
        side = self.image_size // self.autoencoder.config.factor
        return side, side, len(self.latent_mean)

    @property
    def image_channels(self) -> int:
        """Channels of `cond.image`, which is concatenated to z; 0 for most models."""
        return self.denoiser.config.in_channels - len(self.latent_mean) if self.denoiser else 0

    def encode(
        self, images: Images, key: Array | None = None, *, tile: int = 0, sliced: bool = False
    ) -> Float[Array, "b lh lw lc"]:
        """Images [b h w c] in [-1, 1] to normalised latents: the posterior's mean, or with a key a sample of it.

        tile: side in pixels of the tiles that large images are cut into, which are blended; 0 for none. sliced: one
        image after the other. Both save memory; see `ldm_jax.models.tiling`.
        """
        config = self.autoencoder.config
        _, h, w, c = images.shape
        if h % config.factor or w % config.factor or c != config.image_channels:
            raise InputError(
                f"images: {h}x{w}x{c} must have sides that are multiples of {config.factor} "
                f"and {config.image_channels} channels"
            )
        x = jnp.asarray(images, jnp.float32)
        memory, params = Memory(self._tile(tile) * config.factor, sliced), self.autoencoder_params
        return encode_batch(self.autoencoder, params, *self._statistics(), x, key, memory, dividing(params, len(x)))

    def decode(self, z: Float[Array | np.ndarray, "b lh lw lc"], *, tile: int = 0, sliced: bool = False) -> Images:
        """Normalised latents to images in [-1, 1]; tile (in pixels) and sliced as in `encode`."""
        memory, params, z = Memory(self._tile(tile), sliced), self.autoencoder_params, jnp.asarray(z, jnp.float32)
        x = decode_batch(self.autoencoder, params, *self._statistics(), z, memory, dividing(params, len(z)))
        return jnp.clip(x, -1.0, 1.0)

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
        key: Array,
        *,
        labels: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        num: int | None = None,
        first: int = 0,
        steps: int | None = None,
        guidance: float | int | None = None,
        sampler: str | None = None,
        batch_size: int = 64,
        negative: str | Sequence[str] | None = None,
        cond: Conditioning | None = None,
        null: Conditioning | None = None,
        image: Float[Any, "m lh lw c"] | None = None,
        latents: Float[Any, "n lh lw lc"] | None = None,
        height: int | None = None,
        width: int | None = None,
        compat: str | None = None,
        output: Literal["images", "latents"] = "images",
    ) -> UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n lh lw lc"]:
        """Images uint8 [n h w c]; image i depends on the key, i and its condition alone, not on n or batch_size.

        labels: one class an image; with `num` larger than their number they are repeated in turn. Without labels a
        class-conditional model goes through its classes in turn. prompts: texts, likewise. num: images to draw (as many
        as labels, prompts, images or latents, or 1). first: the number of the first of them; first=7, num=1 is image 7
        of a larger set. steps, guidance, sampler: the model's own where None. One compilation serves every seed, label
        and guidance. batch_size: images at a time; the devices that the parameters
        are on share them equally (see `load`), so it is rounded up to a multiple of these.

        negative: texts that guidance leads away from; None: an empty one, or zeros where the model was trained so
        (SDXL). cond, null: embeddings of one's own, as `model.text` gives them, for both branches of guidance. image:
        in [-1, 1], concatenated to z, such as the small image of super-resolution. latents: the initial noise, standard
        normal, in place of that drawn from the key. height, width: of the images. compat: "diffusers" retraces a
        published scheduler with its quirks, see `ldm_jax.pretrained.schedulers`. output: "latents" are normalised and
        not decoded.
        """
        if output not in ("images", "latents"):
            raise InputError(f"output: {output!r} must be images or latents")
        asked = Request(labels, prompts, num, first, negative, cond, null, image, latents, height, width)
        guidance = float(self.sampling.guidance if guidance is None else guidance)
        sampler = self.sampling.sampler if sampler is None else sampler
        steps = self.sampling.steps if steps is None else steps
        out = []
        for z, kept in self._batches(key, asked, guidance, sampler, steps, batch_size, compat):
            out.append(np.asarray(to_uint8(self.decode(z)) if output == "images" else z)[:kept])
        return np.concatenate(out)

    def _batches(
        self,
        key: Array,
        asked: Request,
        guidance: float,
        sampler: str,
        steps: int,
        batch_size: int,
        compat: str | None,
    ) -> Iterator[tuple[Array, int]]:
        """Latents of one batch after the other, and how many of them are wanted."""
        if self.denoiser is None:
            raise InputError("model: it holds an autoencoder alone; train the denoiser to sample")
        h, w, _ = shape = self._shape(asked)
        patch = getattr(self.denoiser.config, "patch", 1)
        process = Process(self.diffusion, sampler, steps, compat, h // patch * (w // patch))
        process.plan()
        n = asked.number()
        for name, value, least in (("num", n, 1), ("batch_size", batch_size, 1), ("first", asked.first, 0)):
            if value < least:
                raise InputError(f"{name}: {value} must be at least {least}")
        if asked.latents is not None and len(asked.latents) != n:
            raise InputError(f"latents: {len(asked.latents)} must be as many as images, {n}")
        cond, null = self._conditions(asked, guidance, shape)
        if jnp.issubdtype(key.dtype, jnp.uint32):
            key = jax.random.wrap_key_data(key)
        mesh, batch_size = mesh_of(self.denoiser_params), min(batch_size, n)
        if mesh is not None:
            batch_size = -(-batch_size // mesh.size) * mesh.size
        for begin in range(0, n, batch_size):
            # The last batch is filled up and cut, so that every batch has the one compiled shape.
            place = np.minimum(np.arange(begin, begin + batch_size), n - 1)
            number = place + asked.first
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, number)
            noise, told, untold = rows(asked.latents, place), rows(cond, number), rows(null, number)
            z = sample_batch(
                self.denoiser_params,
                keys,
                noise,
                told,
                untold,
                jnp.asarray(guidance, jnp.float32),
                module=self.denoiser,
                process=process,
                interval=self.sampling.interval,
                shape=shape,
                mesh=mesh,
            )
            yield z, n - begin

    def _shape(self, asked: Request) -> tuple[int, int, int]:
        """[h w c] of the latents to draw."""
        config, (side, _, channels) = self.autoencoder.config, self.latent_shape
        if asked.latents is not None:
            if asked.latents.ndim != 4 or asked.latents.shape[-1] != channels:
                raise InputError(f"latents: {asked.latents.shape} must be [n h w {channels}]")
            h, w = asked.latents.shape[1:3]
        elif asked.image is not None:
            h, w = asked.image.shape[1:3]
        else:
            h, w = side, side
            for name, size in (("height", asked.height), ("width", asked.width)):
                step = config.factor * getattr(self.denoiser.config, "patch", 1) if self.denoiser else config.factor
                if size is not None and (size < step or size % step):
                    raise InputError(f"{name}: {size} must be a multiple of {step}")
            h = h if asked.height is None else asked.height // config.factor
            w = w if asked.width is None else asked.width // config.factor
        return h, w, channels

    def _conditions(
        self, asked: Request, guidance: float, shape: tuple[int, int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """What the denoiser is told, and what guidance leads away from (None for no guidance); arrays [m ...]."""
        cond, null = asked.cond or Conditioning(), asked.null
        chosen = self._labels(asked.labels)
        if chosen is not None:
            cond = cond._replace(label=chosen)
            if null is None:
                null = cond._replace(label=np.full_like(chosen, self.num_classes))
        if asked.prompts is not None:
            if self.text is None:
                what = "; it takes labels" if self.num_classes else " and no classes"
                raise InputError(f"prompt: this model has no text encoder{what}")
            if isinstance(asked.prompts, str) or not asked.prompts:
                raise InputError("prompt: give a list of one text or more")
            encoded = self.text(asked.prompts)
            cond = cond._replace(context=encoded.context, pooled=encoded.pooled)
        if getattr(self.denoiser.config, "context_dim", 0) and cond.context is None:  # type: ignore[union-attr]
            raise InputError("prompt: this model draws from texts; give one (or cond with its embedding)")
        # A text model is large: without guidance it is evaluated once, not twice.
        if cond.context is not None and guidance == 1.0:
            null = None
        elif cond.context is not None and null is None:
            if self.text is None:
                raise InputError("null: without a text encoder guidance needs the embedding of an empty text")
            negative = asked.negative
            null = self.text.null(cond, [negative] if isinstance(negative, str) else negative)
        if asked.image is not None and asked.image.shape[-1] != self.image_channels:
            raise InputError(f"image: {asked.image.shape} must have {self.image_channels} channels")
        if asked.image is None and self.image_channels and cond.image is None:
            raise InputError(f"image: this model draws from images; give [n h w {self.image_channels}] in [-1, 1]")
        both = []
        for part in (cond, null):
            if part is not None and asked.image is not None:
                part = part._replace(image=jnp.asarray(asked.image, jnp.float32))
            if part is not None and getattr(self.denoiser.config, "added_dim", 0) and part.time_ids is None:  # type: ignore[union-attr]
                h, w = (side * self.autoencoder.config.factor for side in shape[:2])
                # SDXL: the original size, the crop's corner, the size wanted.
                part = part._replace(time_ids=np.array([[h, w, 0, 0, h, w]], np.float32))
            both.append(part)
        return both[0], both[1]

    def _labels(self, labels: Sequence[int] | None) -> np.ndarray | None:
        if not self.num_classes:
            if labels is not None:
                raise InputError(
                    "label: this model takes prompts" if self.text else "label: this model is unconditional"
                )
            return None
        chosen = np.arange(self.num_classes) if labels is None else np.asarray(labels, np.int64).reshape(-1)
        for label in chosen:
            if not 0 <= label < self.num_classes:
                raise InputError(f"label: {label} must be between 0 and {self.num_classes - 1}")
        if len(chosen) == 0:
            raise InputError(f"label: name one or more between 0 and {self.num_classes - 1}")
        return chosen.astype(np.int32)

    def save(self, path: str | Path) -> None:
        """Writes the model's folder: model_index.json and the parts, each with config.json and safetensors.

        A published pipeline's folder is as diffusers has it.
        """
        from ldm_jax.pipeline.folder import save

        save(self, Path(path))
