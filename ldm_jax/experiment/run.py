"""A whole experiment: autoencoder, latents, denoiser, model; resumable at any moment."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax

from ldm_jax.cache import Latents
from ldm_jax.config import Config, Pretrained
from ldm_jax.errors import SAVED, Diverged, InputError
from ldm_jax.experiment.building import (
    AUTOENCODER,
    DENOISER,
    autoencoder_stage,
    denoiser_stage,
    first_stage_model,
    key_for,
    latents_of,
)
from ldm_jax.experiment.parts import Parts, assemble, read_base
from ldm_jax.experiment.workdir import Lock, keep_given, note_retreat, prepare, retreats, seams, slowed
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.pipeline.layouts import DENOISER_FOLDERS
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.processes import barrier, main_process
from ldm_jax.stages import AutoencoderTraining, DenoiserTraining
from ldm_jax.stages.denoiser import DenoiserStage
from ldm_jax.training.boards import Board, WeightsAndBiases
from ldm_jax.training.loop import fit, picture_path
from ldm_jax.training.stage import Params, Stage

log = logging.getLogger("ldm_jax")

StageName = Literal["autoencoder", "denoiser", "all"]


def check_devices(config: Config, devices: int) -> None:
    """InputError where the batch does not split evenly over so many devices and micro-batches."""
    for stage in config.stages:
        parts = devices * stage.accumulate
        if config.data.batch_size % parts:
            raise InputError(
                f"data.batch_size: {config.data.batch_size} must be a multiple of {parts} "
                f"({devices} devices x {stage.accumulate} micro-batches)"
            )


def check_order(config: Config, workdir: Path, stage: StageName) -> None:
    """InputError where a stage would be trained on what is not there, or on what is about to change."""
    training = config.stage(AutoencoderTraining)
    done, later = last_step(workdir / "autoencoder"), workdir / "denoiser"
    if training is None:
        if stage == "autoencoder":
            raise InputError("stage: autoencoder is not one of this experiment's stages")
        return
    if stage == "denoiser" and done is None:
        given = config.autoencoder.path if isinstance(config.autoencoder, Pretrained) else None
        more = f", or leave {given} as it is by --autoencoder-trains nothing" if given else ""
        raise InputError(
            f"stage: denoiser needs {workdir / 'autoencoder'}; train --stage autoencoder (or all) first{more}"
        )
    if (done or 0) < training.steps and last_step(later) is not None:
        raise InputError(
            f"stages.autoencoder.steps: {training.steps} would change the latents that {later} was trained on; "
            f"take another --workdir, or remove {later} to train it anew"
        )


def last_step(folder: Path) -> int | None:
    """The newest checkpoint's in a stage's folder, None where there is none."""
    return max((int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()), default=None)


class Run:
    """One experiment in one folder."""

    def __init__(self, config: Config, workdir: str | Path, profile: bool = False, wandb: str | None = None):
        """Checks the input (devices, data, folder, given parts) before anything is compiled; raises InputError.

        profile: a few steps of each stage are traced to workdir/profile. wandb: a project of Weights & Biases that is
        told, too, what TensorBoard is.
        """
        self.workdir, self.profile, self.wandb = Path(workdir), profile, wandb
        self._boards: list[Board] = []
        check_devices(config, jax.device_count())
        self.parts: Parts = assemble(config, read_base(config, self.workdir))
        self.config = self.parts.config
        training = self.config.stage(AutoencoderTraining)
        self.perceptual = [load_lpips(name) for name in training.loss.networks] if training else []
        old = prepare(self.workdir, self.config)
        for line in seams(old, self.config, self._done) if main_process() else ():
            print(f"note: {line}", file=sys.stderr)
        for part, place in self.parts.base.places.items():
            keep_given(place, self.workdir, part)
        barrier("given parts kept")

    def train(self, stage: StageName = "all") -> Path:
        """Trains what is asked for and not done yet; returns the path of the last picture."""
        check_order(self.config, self.workdir, stage)
        with Lock(self.workdir):
            if self.wandb is not None and main_process():
                self._boards = [WeightsAndBiases(self.wandb, self.workdir, json.loads(self.config.to_json()))]
            try:
                return self._train(stage)
            except Exception as error:
                error.add_note(f"{SAVED}{self._saved()}")
                raise
            finally:
                while self._boards:
                    self._boards.pop().close(failed=sys.exc_info()[0] is not None)

    def _train(self, stage: StageName) -> Path:
        params = self._autoencoder()
        latents = latents_of(self.parts, params, self.workdir)
        model = first_stage_model(self.parts, params, latents)
        denoising = self.config.stage(DenoiserTraining)
        if stage == "autoencoder" or denoising is None:
            if not any((self.workdir / "model" / folder).exists() for folder in DENOISER_FOLDERS.values()):
                self._save(model)
            return self._picture(AutoencoderTraining)
        self._denoiser(model, latents)
        return self._picture(DenoiserTraining)

    def _saved(self) -> str:
        """What an interrupted run would go on from."""
        for name in ("denoiser", "autoencoder"):
            if step := self._done(name):
                return f"step {step} of the {name}; the same command goes on from there"
        return "nothing yet; the same command begins anew"

    def _done(self, name: str) -> int | None:
        return last_step(self.workdir / name)

    def _picture(self, kind: type) -> Path:
        training = self.config.stage(kind)
        name, steps = (training.label, training.steps) if training else ("autoencoder", 0)
        return picture_path(self.workdir, name, steps)

    def _save(self, model: LatentDiffusion) -> None:
        if main_process():
            model.save(self.workdir / "model")
        barrier("model saved")

    def _fit(self, build: Callable[[Parts], Stage], purpose: int) -> tuple[Stage, Params]:
        """The trained stage and its parameters; going back, at a lower rate, as often as its settings allow."""
        while True:
            stage = build(self.parts._replace(config=slowed(self.config, self.workdir)))
            try:
                key = key_for(self.config, purpose)
                watched = {"profile": self.profile, "boards": self._boards}
                return stage, fit(stage, self.workdir, self.config.parallel, key, **watched)[0]
            except Diverged as error:
                training = stage.training
                if retreats(self.workdir).get(training.label, 0) >= training.retreats:
                    raise
                log.warning("%s; going back, at a learning rate of %g", error, training.learning_rate / 2)
                if main_process():
                    note_retreat(self.workdir, training.label)
                barrier("gone back")

    def _autoencoder(self) -> Params:
        """The autoencoder's parameters, trained or as they were given."""
        if self.config.stage(AutoencoderTraining) is None:
            return self.parts.base.autoencoder_params
        return self._fit(lambda parts: autoencoder_stage(parts, self.perceptual), AUTOENCODER)[1]["autoencoder"]

    def _denoiser(self, model: LatentDiffusion, latents: Latents) -> None:
        """Trains the denoiser, and writes what it makes: the model, or the adapters or the word alone."""
        stage, params = self._fit(lambda parts: denoiser_stage(parts, model, latents, self.workdir), DENOISER)
        assert isinstance(stage, DenoiserStage)
        if main_process():
            stage.save(params, self.workdir / stage.room)
        barrier(f"{stage.room} saved")
