"""A whole experiment: autoencoder, latents, denoiser, model; resumable at any moment."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import images, seeds
from ldm_jax.config import Config, TrainingConfig
from ldm_jax.data import Loader, Subset, open_source, to_uint8
from ldm_jax.errors import InputError
from ldm_jax.mesh import AXIS
from ldm_jax.models import (
    AUTOENCODERS,
    Discriminator,
    QuantizedAutoencoder,
    apply,
    make_autoencoder,
    make_denoiser,
)
from ldm_jax.pipeline import LatentDiffusion, make_schedule
from ldm_jax.pipeline.folder import DENOISER_FOLDERS
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.pretrained.parts import load_part
from ldm_jax.training.bottleneck import code_frequencies, perplexity
from ldm_jax.training.first_stage import autoencoder_loss, init_first_stage, shown_psnr
from ldm_jax.training.latents import Latents, encode_all, encode_moments, mean_and_logvar
from ldm_jax.training.loop import fit
from ldm_jax.training.optimizer import make_first_stage_optimizer, make_optimizer
from ldm_jax.training.parallel import Strategy, make_strategy
from ldm_jax.training.processes import main_process, together
from ldm_jax.training.second_stage import denoiser_loss
from ldm_jax.training.step import LossFn, Params, TrainState, train_step

log = logging.getLogger("ldm_jax")

Stage = Literal["autoencoder", "denoiser", "all"]

AUTOENCODER, DENOISER, SHUFFLE, TEST = range(4)
"""The purposes of randomness: keys are the seed folded with one of these."""

# What a finished or begun run may be continued with; everything else would make it another experiment.
CHANGEABLE = ("sampling", "parallel")
CHANGEABLE_TRAINING = ("steps", "log_every", "sample_every", "checkpoint_every")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names."""
    out = {}
    for name, value in tree.items():
        out.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return out


def check_same(old: Config, new: Config, workdir: Path) -> None:
    """InputError where a run folder's config and the new one differ in more than how long and how it is watched."""
    before, after = (flat(json.loads(c.to_json())) for c in (old, new))
    differing = [
        name
        for name in after
        if before.get(name) != after[name]
        and name.split(".")[0] not in CHANGEABLE
        and not (name.split(".")[0].endswith("_training") and name.split(".")[-1] in CHANGEABLE_TRAINING)
    ]
    if differing:
        name = differing[0]
        more = f" (and {len(differing) - 1} more fields)" if len(differing) > 1 else ""
        raise InputError(
            f"{name}: {after[name]} but {workdir} was begun with {before.get(name)}{more}; "
            "take another --workdir or the old value"
        )


def prepare_workdir(workdir: Path, config: Config) -> None:
    """Creates the run's folder and writes config.json, after checking that both can be done and nothing is lost."""
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        old = Config.from_json(path.read_text()) if path.exists() else None
    except OSError as error:
        raise InputError(f"workdir: {workdir} can't be written ({error.strerror}); name a writable folder") from error
    if old is not None:
        check_same(old, config, workdir)
    if main_process():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(config.to_json())
        temporary.replace(path)


def check_devices(config: Config) -> None:
    """InputError where the batch does not split evenly over devices and micro-batches."""
    devices = jax.device_count()
    for stage in (config.autoencoder_training, config.denoiser_training):
        parts = devices * stage.accumulate
        if config.data.batch_size % parts:
            raise InputError(
                f"data.batch_size: {config.data.batch_size} must be a multiple of {parts} "
                f"({devices} devices x {stage.accumulate} micro-batches)"
            )


def read_autoencoder(path: str) -> tuple[Any, Params]:
    """(module, params) of a first stage: a model's folder, a run's, or that of the autoencoder alone."""
    places = [Path(path), Path(path) / "vae", Path(path) / "model" / "vae", Path(path) / "vqvae"]
    found = next((place for place in places[1:] + places[:1] if (place / "config.json").is_file()), None)
    if found is None:
        raise InputError(f"autoencoder_from: {path} holds no autoencoder; name a model's folder or its vae/")
    module, params = load_part(found)
    if type(module) not in AUTOENCODERS.values():
        raise InputError(f"autoencoder_from: {found} holds a {type(module).__name__}, not an autoencoder")
    return module, params


class Run:
    """One experiment in one folder."""

    def __init__(self, config: Config, workdir: str | Path):
        """Checks the input (devices, data, folder) before anything is compiled; raises InputError."""
        self.workdir = Path(workdir)
        check_devices(config)
        self.given: Params | None = None
        if config.autoencoder_from:
            module, self.given = read_autoencoder(config.autoencoder_from)
            config = dataclasses.replace(config, autoencoder=module.config)
        loss = config.autoencoder_loss
        networks = ("vgg16", "alexnet") if loss.perceptual == "both" else (loss.perceptual,)
        self.perceptual = [load_lpips(network) for network in networks] if loss.perceptual_weight else []
        source = open_source(config.data.source, "train")
        if 0 < config.data.limit < len(source):
            source = Subset.evenly(source, config.data.limit)
        self.config = config.resolve(len(source.class_names))
        self.class_names = tuple(source.class_names) if self.config.denoiser.num_classes else ()
        data = self.config.data
        self.loader = Loader(
            source,
            batch_size=data.batch_size,
            image_size=data.image_size,
            channels=self.config.autoencoder.image_channels,
            seed=config.seed,
            flip=data.flip,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        prepare_workdir(self.workdir, self.config)

    def train(self, stage: Stage = "all") -> Path:
        """Trains what is asked for and not done yet; returns the path of the last picture."""
        autoencoder = make_autoencoder(self.config.autoencoder)
        done = self.workdir / "autoencoder"
        trained = self.config.autoencoder_trains == "nothing" or any(done.glob("[0-9]*"))
        if stage == "denoiser" and not trained:
            raise InputError(f"stage: denoiser needs {done}; train --stage autoencoder (or all) first")
        params = self._autoencoder(autoencoder)
        latents = encode_all(
            self.workdir / "latents", autoencoder, params, self.loader, self._identity(), self.config.data.batch_size
        )
        model = LatentDiffusion(
            autoencoder=autoencoder,
            autoencoder_params=params,
            latent_mean=latents.mean,
            latent_std=latents.std,
            image_size=self.config.data.image_size,
            diffusion=self.config.diffusion,
            sampling=self.config.sampling,
            class_names=self.class_names,
        )
        if stage == "autoencoder":
            if not any((self.workdir / "model" / folder).exists() for folder in DENOISER_FOLDERS):
                self._save(model)
            return self._picture("autoencoder", self.config.autoencoder_training.steps)
        model = self._denoiser(model, latents)
        self._save(model)
        return self._picture("denoiser", self.config.denoiser_training.steps)

    def _save(self, model: LatentDiffusion) -> None:
        if main_process():
            model.save(self.workdir / "model")
        together("model saved")

    def _picture(self, stage: str, step: int) -> Path:
        return self.workdir / "samples" / f"{stage}-{step:07d}.png"

    def _identity(self) -> str:
        return json.dumps({"source": self.config.data.source, "limit": self.config.data.limit})

    def _strategy(self, loss_fn: LossFn, optimizer: Any, training: TrainingConfig) -> Strategy:
        step = partial(
            train_step, loss_fn=loss_fn, optimizer=optimizer, ema=training.ema, accumulate=training.accumulate
        )
        return make_strategy(self.config.parallel, step)

    def _key(self, purpose: int) -> jax.Array:
        return jax.random.fold_in(seeds.key(self.config.seed), purpose)

    def _autoencoder(self, module: Any) -> Params:
        if self.config.autoencoder_trains == "nothing":
            return jax.tree.map(jnp.asarray, self.given)
        loss, training, data = self.config.autoencoder_loss, self.config.autoencoder_training, self.config.data
        discriminator = Discriminator(self.config.discriminator) if loss.adversarial_weight else None
        perceptual = [network for network, _ in self.perceptual]
        frozen = {"perceptual": [params for _, params in self.perceptual]} if perceptual else None
        axis = AXIS if self.config.parallel == "pmap" else None
        loss_fn = autoencoder_loss(module, loss, perceptual, discriminator, axis)
        optimizer = make_first_stage_optimizer(training, loss.codebook, self.config.autoencoder_trains)
        strategy = self._strategy(loss_fn, optimizer, training)
        held_out, _ = self._held_out()
        quantized = isinstance(module, QuantizedAutoencoder)

        @jax.jit
        def reconstruct(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
            image, encoded = apply(module, params, x)
            if not quantized:
                return image, None
            indices = apply(module, params, encoded, method="indices")
            return image, code_frequencies(indices, module.config.codebook_size)

        def look(step: int, state: TrainState) -> dict[str, float]:
            drawn, frequencies = reconstruct(gathered(state.ema["autoencoder"]), held_out)
            output = np.asarray(drawn)
            pairs = np.stack([held_out[:32], output[:32]], axis=1).reshape(-1, *output.shape[1:])
            self._draw("autoencoder", step, to_uint8(pairs), 8)
            numbers = {"test_psnr": float(shown_psnr(drawn, jnp.asarray(held_out)).mean())}
            if frequencies is not None:
                numbers["test_codes_used"] = float((frequencies > 0).mean())
                numbers["test_perplexity"] = float(perplexity(frequencies))
            return numbers

        def batches(start: int, stop: int) -> Any:
            for k, batch in self.loader.iterate(start, stop):
                seen = np.full(len(batch["index"]), k >= loss.adversarial_start, np.float32)
                yield k, {"image": batch["image"], "index": batch["index"], "adversarial": seen}

        def init(key: jax.Array) -> TrainState:
            return started(init_first_stage(module, discriminator, loss, key, self.given), optimizer)

        where = "autoencoder", self.workdir, training, strategy, init, self._key(AUTOENCODER), batches
        return gathered(fit(*where, data.batch_size, look, frozen).ema["autoencoder"])

    def _denoiser(self, model: LatentDiffusion, latents: Latents) -> LatentDiffusion:
        training, batch_size = self.config.denoiser_training, self.config.data.batch_size
        module = make_denoiser(self.config.denoiser)
        schedule = make_schedule(self.config.diffusion)
        mean, std = jnp.asarray(latents.mean), jnp.asarray(latents.std)
        loss_fn = denoiser_loss(module, self.config.diffusion, schedule, mean, std)
        optimizer = make_optimizer(training)
        strategy = self._strategy(loss_fn, optimizer, training)

        @cache
        def test() -> tuple[dict[str, jax.Array], jax.Array]:
            """Latents that training does not see, and keys: of the same times and noise whenever they are looked at."""
            images, labels = self._held_out()
            moments = encode_moments(model.autoencoder, model.autoencoder_params, jnp.asarray(images))
            first, logvar = mean_and_logvar(np.asarray(moments), len(latents.mean))
            batch = jax.tree.map(jnp.asarray, {"mean": first, "logvar": logvar, "label": labels})
            return batch, jax.random.split(self._key(TEST), len(images))

        @jax.jit
        def test_loss(params: Params, batch: dict[str, jax.Array], keys: jax.Array) -> jax.Array:
            return loss_fn(params, batch, keys)[0].mean()

        def look(step: int, state: TrainState) -> dict[str, float]:
            params = gathered(state.ema)
            columns = module.config.num_classes or 8
            rows = min(max(80 // columns, 2), 10)
            drawn = dataclasses.replace(model, denoiser=module, denoiser_params=params).sample(
                seeds.key(self.config.seed), num=columns * rows
            )
            self._draw("denoiser", step, drawn, columns)
            return {"test_loss": float(test_loss(params, *test()))}

        def batches(start: int, stop: int) -> Any:
            where = (self.config.seed + SHUFFLE, jax.process_index(), jax.process_count())
            for k in range(start, stop):
                yield k, latents.batch(k, batch_size, *where)

        def init(key: jax.Array) -> TrainState:
            return started(module.init(key, *module.example_inputs())["params"], optimizer)

        where = "denoiser", self.workdir, training, strategy, init, self._key(DENOISER), batches
        state = fit(*where, batch_size, look)
        return dataclasses.replace(model, denoiser=module, denoiser_params=gathered(state.ema))

    def _held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """At most 256 images that training does not see, [-1, 1], and their labels; of training where it sees all."""
        data = self.config.data
        try:
            source: Source = open_source(data.source, "test")
        except InputError:
            source = self.loader.source
        loader = Loader(
            Subset.evenly(source, 256),
            batch_size=1,
            image_size=data.image_size,
            channels=self.config.autoencoder.image_channels,
            seed=0,
        )
        _, held_out, valid = next(loader.in_order(min(len(source), 256)))
        return held_out[:valid], loader.labels

    def _draw(self, stage: str, step: int, drawn: np.ndarray, columns: int) -> None:
        # Small images are enlarged, so that a person can see them.
        scale = max(1, 64 // self.config.data.image_size)
        if main_process():
            images.write_png(self._picture(stage, step), images.grid(drawn, columns), scale)


def started(params: Params, optimizer: Any) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))


def gathered(params: Any) -> Any:
    """Parameters whole on one device, whatever strategy they were trained with."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        params = multihost_utils.process_allgather(params, tiled=True)
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), params)
