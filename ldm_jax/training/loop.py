"""The loop that both stages share: dispatch, record, checkpoint, stop when told."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.config import TrainingConfig
from ldm_jax.errors import Stopped
from ldm_jax.training.checkpoints import Checkpoints
from ldm_jax.training.optimizer import learning_rate
from ldm_jax.training.parallel import Strategy
from ldm_jax.training.processes import someone
from ldm_jax.training.record import Record
from ldm_jax.training.step import TrainState

log = logging.getLogger("ldm_jax")


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


def fit(
    stage: str,
    workdir: Path,
    config: TrainingConfig,
    strategy: Strategy,
    init: Callable[[jax.Array], TrainState],
    key: jax.Array,
    batches: Callable[[int, int], Iterator[tuple[int, Any]]],
    batch_size: int,
    look: Callable[[int, TrainState], dict[str, float]],
    frozen: Any = None,
) -> TrainState:
    """Trains one stage from whatever its folder holds to config.steps, and returns the final state.

    batches(start, stop) yields (step, host batch). look(step, state) draws pictures and gives numbers to record; it is
    called every sample_every steps and at the end. frozen: parameters that the loss reads and nobody trains. Raises
    Stopped after saving when a signal came.
    """
    init_key, step_key = (jax.random.fold_in(key, i) for i in range(2))
    checkpoints = Checkpoints(workdir / stage)
    shapes = jax.eval_shape(init, init_key)
    template = jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, strategy.shardings(shapes)
    )
    found = checkpoints.restore(template)
    if found is None:
        start, state = 0, strategy.create(init, init_key)
    else:
        start, state = found
        if start >= config.steps:
            log.info("%s: finished at step %d", stage, start)
            checkpoints.close()
            return state
        log.info("%s: resuming at step %d of %d from %s", stage, start, config.steps, checkpoints.folder)

    # Loops over several fake CPU devices deadlock when steps pile up (JAX 0.10.2), so each one is waited for there.
    wait = jax.default_backend() == "cpu" and jax.device_count() > 1
    alone = jax.process_count() == 1
    rate, shared = learning_rate(config), None if frozen is None else strategy.share(frozen)
    record = Record(workdir, stage, start, config.steps, batch_size)
    pending: list[Any] = []
    try:
        with StopSignal() as stop:
            for k, batch in batches(start, config.steps):
                step = k + 1
                batch = strategy.put(batch)
                if step == start + 1:
                    record.flops = strategy.flops(state, batch, step_key, shared)
                state, metrics = strategy.step(state, batch, step_key, shared)
                pending.append(metrics)
                record.tick()
                if wait:
                    jax.block_until_ready(metrics)
                elif len(pending) > 1:
                    # One step stays in flight while the last one's numbers are waited for.
                    jax.block_until_ready(pending[-2])
                last = step == config.steps
                looking = last or step % config.sample_every == 0
                means, per_second = None, 0.0
                if looking or step % config.log_every == 0:
                    values = jax.device_get(pending)
                    pending = []
                    means = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
                    means["learning_rate"] = float(np.asarray(rate(k)))
                    # Taken before pictures are drawn, which is not training.
                    per_second = record.images_per_second(step)
                    if not np.isfinite(means["loss"]):
                        record.write(step, means, per_second)
                        raise FloatingPointError(
                            f"{stage}: the loss is {means['loss']} at step {step}; the last checkpoint is kept, "
                            "a lower learning rate or clip may help"
                        )
                # Several processes hear a signal at different steps, and agree where they meet anyway.
                stopping = (alone or means is not None) and someone(stop.received is not None)
                saving = last or step % config.checkpoint_every == 0 or stopping
                if saving or looking:
                    state = strategy.joined(state)
                if saving:
                    checkpoints.save(step, state)
                if stopping and not last:
                    if means is not None:
                        record.write(step, means, per_second)
                    by = stop.received or "to another process"
                    raise Stopped(f"{stage}: stopped at step {step} of {config.steps} by signal {by}, saved")
                if means is not None:
                    seen = look(step, state) if looking else {}
                    record.write(step, {**means, **seen}, per_second)
    finally:
        record.close()
        checkpoints.close()
    return state
