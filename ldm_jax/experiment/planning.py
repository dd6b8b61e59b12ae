"""What an experiment would take on devices that need not be here: its training steps compiled, and never run."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax.cache import Latents
from ldm_jax.config import Config
from ldm_jax.data import Subset
from ldm_jax.errors import InputError
from ldm_jax.experiment.building import autoencoder_stage, denoiser_stage, first_stage_model
from ldm_jax.experiment.parts import Parts, assemble, loader_of, read_base
from ldm_jax.experiment.run import check_devices
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.stages import AutoencoderTraining
from ldm_jax.training.chips import Costs, chip_of, costs_of
from ldm_jax.training.loop import beginning_of, strategy_of
from ldm_jax.training.stage import Stage

EXAMPLES = 8
"""Of the data, read for the shapes of a batch."""


class Plan(NamedTuple):
    """One stage's training on one kind of device."""

    stage: str
    strategy: str
    kind: str
    devices: int
    batch_size: int
    steps: int
    parameters: int
    """Trained, the discriminator's included."""
    flops: float
    """Of one device's step; matrix products and convolutions."""
    costs: Costs | None
    """None where the step does not fit into a device's memory."""
    refused: str = ""
    """What the compiler says then."""
    largest: int | None = None
    """Examples of the largest batch that fits, where it was looked for."""

    @property
    def times(self) -> dict[str, float]:
        """Seconds of a step if one thing alone held it up; {} for devices that aren't known."""
        chip = chip_of(self.kind)
        if chip is None or self.costs is None:
            return {}
        peak, (_, bandwidth, links) = chip
        return {
            "compute": self.flops / peak,
            "memory": self.costs.accessed / bandwidth,
            "network": self.costs.sent / links,
        }

    @property
    def seconds(self) -> float | None:
        """Of a step, at least: the slowest of `times`."""
        return max(self.times.values(), default=None)


def plan(
    config: Config,
    devices: Sequence[Any],
    strategies: Sequence[str] = ("pmap", "fsdp"),
    stage: str = "all",
    largest: bool = False,
) -> Iterator[Plan]:
    """Compiles the training step of each stage for `devices`, with each strategy, and tells what it takes.

    Devices of `jax.experimental.topologies` need not be here. A few examples of the data are read, and what is given
    (autoencoder, text encoders, LPIPS); nothing is trained or kept. Memory and collectives are the compiler's, FLOPs
    are counted in the step itself. largest: find the largest batch that fits, too, which compiles many times.

    Raises:
      InputError: as training would; no such stage; a batch that does not split over the devices.
    """
    check_devices(config, len(devices))
    if largest and chip_of(devices[0].device_kind) is None:
        raise InputError(f"largest_batch: the memory of {devices[0].device_kind} isn't known; leave it out")
    names = [training.label for training in config.stages if stage in ("all", training.label)]
    if not names:
        raise InputError(f"stage: {stage} is not one of this experiment's stages")
    with tempfile.TemporaryDirectory() as room:
        parts = _parts(config, Path(room))
        for name, strategy in itertools.product(names, strategies):
            built = parts._replace(config=dataclasses.replace(parts.config, parallel=strategy))
            found, unrolled = _stage(built, name, Path(room))
            batch = next(iter(found.batches(0, 1)))[1]
            made = compiled(found, batch, strategy, devices, unrolled)
            yield made._replace(largest=largest_batch(found, batch, strategy, devices)) if largest else made


def largest_batch(stage: Stage, batch: Any, strategy: str, devices: Sequence[Any]) -> int:
    """Examples of the largest global batch that fits, to an eighth of it; 0 where not even one a device does.

    By bisection, compiling each time; devices that `training.chips` knows.
    """
    known = chip_of(devices[0].device_kind)
    assert known is not None
    unit = len(devices) * stage.training.accumulate

    def fits(size: int) -> bool:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *np.shape(x)[1:]), x.dtype), batch)
        costs = compiled(stage, shapes, strategy, devices).costs
        return costs is not None and costs.memory <= known[1].memory

    low, high, size = 0, None, stage.batch_size
    while high is None or high - low > max(unit, low // 8):
        if fits(size):
            low = size
        else:
            high = size
        size = 2 * low if high is None else (low + high) // 2 // unit * unit
        size = max(size, low + unit)
    return low


def _parts(config: Config, room: Path) -> Parts:
    """The experiment's, with a few examples of its data and no second source."""
    parts = assemble(config, read_base(config, room))
    few = loader_of(parts.config, parts.base, Subset.evenly(parts.loader.source, EXAMPLES))
    return parts._replace(loader=few, test=None, prior=None)


def _stage(parts: Parts, name: str, room: Path) -> tuple[Stage, Stage | None]:
    """A stage, and the same without a loop over its blocks where it has one."""
    if name == AutoencoderTraining.label:
        training = parts.config.stage(AutoencoderTraining)
        return autoencoder_stage(parts, [load_lpips(name) for name in training.loss.networks]), None
    latents = _blank_latents(parts)
    model = first_stage_model(parts, parts.base.autoencoder_params, latents)
    found = denoiser_stage(parts, model, latents, room)
    flat = parts._replace(config=parts.config.with_stages(denoiser={"scan": False}))
    return found, denoiser_stage(flat, model, latents, room) if found.scanned else None


def _blank_latents(parts: Parts) -> Latents:
    """Latents of the right shape, for which nothing is encoded."""
    config, (*space, _) = parts.base.autoencoder.config, parts.loader.shape
    channels = config.code_channels
    shape = (EXAMPLES, 1 + parts.loader.flip, *(side // config.factor for side in space), 2 * channels)
    return Latents(np.zeros(shape, np.float32), np.zeros(channels, np.float32), np.ones(channels, np.float32))


def compiled(stage: Stage, batch: Any, strategy: str, devices: Sequence[Any], unrolled: Stage | None = None) -> Plan:
    """The plan of one stage; batch: one of its batches, or its shapes.

    unrolled: the same without `scan`, whose traffic is taken, for the compiler counts one turn of a loop alone.
    """
    training = stage.training
    made = strategy_of(stage, strategy, devices)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(beginning_of(stage), key, stage.given)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), (batch, stage.frozen))
    arguments = made.shapes(state, shapes[0], key, shapes[1])
    found = Plan(
        training.label,
        strategy,
        devices[0].device_kind,
        len(devices),
        stage.batch_size,
        training.steps,
        count,
        made.flops(*arguments),
        None,
    )
    try:
        program = made.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found._replace(refused=_memory_in(str(error)))
    costs = costs_of(program, len(devices))
    traffic = None if unrolled is None else compiled(unrolled, batch, strategy, devices).costs
    if traffic is not None:
        costs = costs._replace(accessed=traffic.accessed, collectives=traffic.collectives)
    return found._replace(costs=costs)


def _memory_in(message: str) -> str:
    used = re.search(r"Used ([\d.]+\w+) of ([\d.]+\w+)", message)
    return f"it needs {used[1]} of {used[2]}" if used else message.strip().splitlines()[0][:120]
