"""The loop that all stages share: dispatch, record, checkpoint, stop when told or when nothing is finite any more."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ldm_jax import images
from ldm_jax.errors import Diverged, Stopped
from ldm_jax.processes import any_process, main_process
from ldm_jax.training.averages import FOLDER, Profiles, exponent, write_snapshots
from ldm_jax.training.boards import Board
from ldm_jax.training.checkpoints import Checkpoints
from ldm_jax.training.made_once import made_once
from ldm_jax.training.parallel import Strategy, make_strategy
from ldm_jax.training.profiling import Profile
from ldm_jax.training.record import Record
from ldm_jax.training.stage import Evaluation, Loss, Params, Stage, Training
from ldm_jax.training.step import TrainState, started, train_step

log = logging.getLogger("ldm_jax")

SHOWN = 64
"""Pixels of a picture's side below which it is enlarged, so that a person can see it."""


NAMED = 3
"""Skipped steps between two lines of metrics.jsonl whose examples are named."""


class StopSignal:
    """Notes SIGTERM and SIGINT instead of dying of them; a second one has its usual effect."""

    def __enter__(self) -> StopSignal:
        self.received: int | None = None
        self._before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread, as in a notebook's executor
                log.debug("signals are left alone outside the main thread")
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(number, self._before[number])

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def picture_path(workdir: Path, name: str, step: int) -> Path:
    """Where a stage's pictures of a step are."""
    return workdir / "samples" / f"{name}-{step:07d}.png"


def fit(
    stage: Stage,
    workdir: Path,
    parallel: str,
    key: jax.Array,
    devices: Sequence[Any] | None = None,
    profile: bool = False,
    boards: Sequence[Board] = (),
) -> tuple[Params, Strategy]:
    """Trains one stage from whatever its folder holds to its last step; returns the averaged parameters.

    They lie as `Strategy.local` puts them. key: all of the stage's randomness. devices: all where None. profile: a few
    of the steps are traced to workdir/profile. boards: what shows numbers and pictures besides TensorBoard.

    Raises:
      Stopped: a signal came; the state is saved.
      Diverged: too many steps in a row were not finite, or the last one was; the last good checkpoint is kept.
      InputError: the folder holds checkpoints of something else.
    """
    training, name = stage.training, stage.training.label
    strategy = strategy_of(stage, parallel, devices)
    checkpoints = Checkpoints(workdir / name, stage.inputs)
    try:
        start, state = _begun(stage, strategy, checkpoints, jax.random.fold_in(key, 0))
        # A signal or a crash came between a checkpoint and what is looked at after its step.
        unseen = start > 0 and _is_looked_at(training, start) and not picture_path(workdir, name, start).exists()
        if start < training.steps or unseen:
            fitting = Fitting(stage, workdir, strategy, checkpoints, start, profile, boards)
            state = fitting.run(state, jax.random.fold_in(key, 1), unseen)
    finally:
        checkpoints.close()
    return strategy.local(strategy.joined(state).ema), strategy


def strategy_of(stage: Stage, parallel: str, devices: Sequence[Any] | None = None) -> Strategy:
    """How the stage's step runs on the devices (all where None): by "pmap" or "fsdp"."""
    training = stage.training
    step = stage.loss, stage.optimizer, training.ema, _gammas(training.profiles), training.accumulate
    return _strategy(parallel, *step, None if devices is None else tuple(devices))


def beginning_of(stage: Stage) -> Callable[[jax.Array, Params], TrainState]:
    """(key, stage.given) -> the state before the first step."""
    return _beginning(stage.init, stage.optimizer, len(_gammas(stage.training.profiles)))


def _is_looked_at(training: Training, step: int) -> bool:
    return step >= training.steps or step % training.sample_every == 0


def _gammas(profiles: Profiles | None) -> tuple[float, ...]:
    return () if profiles is None else tuple(map(exponent, profiles.lengths))


@made_once
def _strategy(
    parallel: str,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    ema: float,
    gammas: tuple[float, ...],
    accumulate: int,
    devices: tuple[Any, ...] | None,
) -> Strategy:
    step = partial(train_step, loss_fn=loss, optimizer=optimizer, ema=ema, gammas=gammas, accumulate=accumulate)
    return make_strategy(parallel, step, devices)


@made_once
def _beginning(
    init: Callable[..., Params], optimizer: optax.GradientTransformation, averages: int
) -> Callable[[jax.Array, Params], TrainState]:
    return lambda key, given: started(init(key, given), optimizer, averages)


def _begun(stage: Stage, strategy: Strategy, checkpoints: Checkpoints, key: jax.Array) -> tuple[int, TrainState]:
    """The steps done and the state: the newest checkpoint's, or none and a new one."""
    name, steps = stage.training.label, stage.training.steps

    init = beginning_of(stage)
    shapes = jax.eval_shape(init, key, stage.given)
    template = jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, strategy.shardings(shapes)
    )
    found = checkpoints.restore(template)
    if found is None:
        return 0, strategy.create(init, key, stage.given)
    if found[0] >= steps:
        log.info("%s: finished at step %d", name, found[0])
    else:
        log.info("%s: resuming at step %d of %d from %s", name, found[0], steps, checkpoints.folder)
    return found


def _draw(workdir: Path, step: int, seen: Evaluation, record: Record) -> None:
    if seen.pictures is not None and main_process():
        scale, path = max(1, SHOWN // seen.pictures.shape[1]), picture_path(workdir, record.stage, step)
        images.write_png(path, images.grid(seen.pictures, seen.columns), scale)
        record.picture(step, path)


class Fitting:
    """A stage while it is trained: what is pending, what was saved last, whether it is still finite."""

    def __init__(
        self,
        stage: Stage,
        workdir: Path,
        strategy: Strategy,
        checkpoints: Checkpoints,
        start: int,
        profile: bool = False,
        boards: Sequence[Board] = (),
    ):
        self.stage, self.training, self.name = stage, stage.training, stage.training.label
        self.workdir, self.strategy, self.checkpoints, self.start = workdir, strategy, checkpoints, start
        self.record = Record(workdir, self.name, start, self.training.steps, stage.batch_size, boards)
        self._profile = Profile(workdir / "profile", self.name) if profile and main_process() else None
        self._rate = self.training.rate
        self._pending: list[Any] = []
        self._values: list[Any] = []
        # Loops over several fake CPU devices deadlock when steps pile up (JAX 0.10.2), so each one is waited for there.
        self._wait = jax.default_backend() == "cpu" and jax.device_count() > 1

    def run(self, state: TrainState, key: jax.Array, unseen: bool) -> TrainState:
        """All steps that are left; see `fit`. unseen: the state that it begins with is to be looked at first."""
        frozen = None if self.stage.frozen is None else self.strategy.replicate(self.stage.frozen)
        batches = self.stage.batches(self.start, self.training.steps)
        try:
            with StopSignal() as stop:
                if unseen:
                    self.record.add(self._look(self.start, state))
                    self.record.restart(self.start)
                for k, host_batch in batches:
                    step, batch = k + 1, self.strategy.put(host_batch)
                    if step == self.start + 1:
                        self.record.flops = self.strategy.flops(state, batch, key, frozen)
                    state, metrics = self.strategy.step(state, batch, key, frozen)
                    self._dispatched(metrics)
                    if self._profile is not None:
                        self._profile.after(state)
                    state = self._after(step, state, stop)
        finally:
            self.record.close()
            if self._profile is not None:
                self._profile.close()
        return state

    def _dispatched(self, metrics: Any) -> None:
        self._pending.append(metrics)
        self.record.tick()
        if self._wait:
            jax.block_until_ready(metrics)
        elif len(self._pending) > 1:
            # One step stays in flight while the last one's numbers are waited for.
            jax.block_until_ready(self._pending[-2])

    def _after(self, step: int, state: TrainState, stop: StopSignal) -> TrainState:
        """Records, saves and shows what is due after a step; returns the state to continue from."""
        training, last = self.training, step == self.training.steps
        looking = _is_looked_at(training, step)
        logging_now = looking or step % training.log_every == 0
        # Several processes hear a signal at different steps, and agree where they meet anyway.
        alone = jax.process_count() == 1
        stopping = (alone or logging_now) and any_process(stop.received is not None)
        saving = last or step % training.checkpoint_every == 0 or stopping
        profiles = training.profiles
        if profiles is not None and (last or step % profiles.every == 0):
            self._snap(step, profiles, state)
        if not (saving or logging_now):
            return state
        skipped = self._collect(step)
        means, rate = (self._means(step), self.record.images_per_second(step)) if logging_now else (None, 0.0)
        if skipped >= training.patience or (skipped and (last or stopping)):
            self._diverged(step, skipped, means, rate)
        if saving or looking:
            state = self.strategy.joined(state)
        # Before the checkpoint: a run that is killed after it goes on from it, and would never write this line.
        if means is not None:
            self.record.write(step, means, rate)
        if saving and not skipped and not self.checkpoints.save(step, state):
            self._diverged(step, 1, None, rate)
        if stopping and not last:
            by = stop.received or "to another process"
            raise Stopped(f"{self.name}: stopped at step {step} of {training.steps} by signal {by}, saved")
        if looking:
            self.record.add(self._look(step, state))
        self.record.restart(step)
        return state

    def _snap(self, step: int, profiles: Profiles, state: TrainState) -> None:
        """Writes the averages; before the step's checkpoint, from which a run would go on without them."""
        averages = self.strategy.local(self.strategy.joined(state).averages)
        if main_process():
            write_snapshots(self.workdir / FOLDER, step, profiles.lengths, averages)

    def _collect(self, step: int) -> int:
        """Fetches what is pending up to `step`; the number of steps in a row, up to the last, that were skipped."""
        values = jax.device_get(self._pending)
        bad = [step - len(values) + i for i, v in enumerate(values, 1) if v["skipped"]]
        for number in bad[:NAMED]:
            examples = ", ".join(map(str, self.stage.examples(number - 1).tolist()))
            log.warning(
                "%s: step %d is skipped, its loss or gradient is not finite; examples %s", self.name, number, examples
            )
        if bad:
            shown = f"ldm-jax batch {self.workdir} --stage {self.name} --step {bad[0]} --out x.png"
            more = f"{len(bad) - NAMED} more steps are skipped; " if len(bad) > NAMED else ""
            log.warning("%s%s shows them", more, shown)
        self._values += values
        self._pending = []
        return int(self._values[-1]["skipped"])

    def _means(self, step: int) -> dict[str, float]:
        """The means over the steps since the last line, skipped ones left out."""
        values, self._values = self._values, []
        good = [v for v in values if v["skipped"] == 0] or values
        means = {name: float(np.mean([v[name] for v in good])) for name in values[0] if name != "skipped"}
        means["learning_rate"] = float(np.asarray(self._rate(step - 1)))
        count = sum(int(v["skipped"] > 0) for v in values)
        return {**means, "skipped_steps": count} if count else means

    def _look(self, step: int, state: TrainState) -> dict[str, float]:
        seen = self.stage.evaluate(step, self.strategy.local(state.ema))
        if not all(math.isfinite(value) for value in seen.numbers.values()):
            self.record.add(seen.numbers)
            self._diverged(step, 0, None, 0.0)
        _draw(self.workdir, step, seen, self.record)
        return dict(seen.numbers)

    def _diverged(self, step: int, skipped: int, means: dict[str, float] | None, rate: float) -> None:
        """Takes back a checkpoint that the first bad step began from, and ends the run."""
        if means is not None:
            self.record.write(step, means, rate)
        good = step - skipped
        self.checkpoints.discard(good, "the step after it is not finite")
        newest = self.checkpoints.newest
        kept = f"the checkpoint of step {newest} is kept" if newest else "there is no checkpoint yet"
        raise Diverged(
            f"{self.name}: the loss or its gradient is not finite from step {good + 1} on; {kept}; "
            "a lower learning_rate or clip may help"
        )
