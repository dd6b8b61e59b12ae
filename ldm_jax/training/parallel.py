"""Strategies: how one train_step runs on many devices. Both share one state and one checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from ldm_jax.mesh import AXIS, device_mesh
from ldm_jax.training.flops import count_flops
from ldm_jax.training.step import Metrics, TrainState

LEAST_SHARDED = 2**14
"""Elements of the smallest array that FSDP splits: smaller ones cost more to gather than they save."""


class Strategy(NamedTuple):
    """create(init, *arguments) -> state; step(state, batch, key, frozen=None) -> (state, metrics).

    put(host batch) -> batch. replicate(tree) -> the tree whole on every device, as `frozen` shall be. flops(arguments
    of step) -> one device's. shapes(state, global batch, key, frozen), each of jax.ShapeDtypeStruct -> arguments for
    `flops` and for `lower`, the step lowered for devices that need not be there. joined(state) -> a step's state as
    arrays of all processes, as a checkpoint wants it. local(tree) -> parameters as this process may compute with them:
    whole on one device where they are replicated, sharded as in training otherwise.
    """

    create: Callable[..., TrainState]
    shardings: Callable[[TrainState], Any]
    step: Callable[..., tuple[TrainState, Metrics]]
    put: Callable[[Any], Any]
    replicate: Callable[[Any], Any]
    flops: Callable[..., float]
    shapes: Callable[..., tuple[Any, ...]]
    lower: Callable[..., jax.stages.Lowered]
    joined: Callable[[TrainState], TrainState]
    local: Callable[[Any], Any]


def shard_largest(shape: tuple[int, ...], devices: int, least: int = LEAST_SHARDED) -> PartitionSpec:
    """The largest axis that the devices divide is split over them; an array without one, or small, is replicated."""
    axes = [i for i, size in enumerate(shape) if size % devices == 0 and size >= devices]
    if not axes or devices == 1 or math.prod(shape) < least:
        return PartitionSpec()
    best = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*(AXIS if i == best else None for i in range(len(shape))))


def make_strategy(
    name: str, train_step: Callable[..., Any], devices: Sequence[Any] | None = None, least: int = LEAST_SHARDED
) -> Strategy:
    """The strategy `name`, "pmap" or "fsdp", for a train_step(state, batch, key, frozen, axis_name=...).

    pmap: state replicated, the batch's leading axis split over the devices, gradients averaged by pmean. fsdp: one
    global program under jit; parameters, optimiser state and EMA are split over the devices from birth, arrays of
    fewer than `least` elements aside. devices: all where None.
    """
    return _pmap(train_step, devices) if name == "pmap" else _fsdp(train_step, devices, least)


def _creator(shardings: Callable[[TrainState], Any]) -> Callable[..., TrainState]:
    def create(init: Callable[..., TrainState], *arguments: Any) -> TrainState:
        placed = shardings(jax.eval_shape(init, *arguments))
        # An initialisation runs once: optimising its program costs far more than it saves.
        options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        if jax.default_backend() != "cpu":
            options = {}
        return jax.jit(init, out_shardings=placed, compiler_options=options)(*arguments)

    return create


def _pmap(train_step: Callable[..., Any], devices: Sequence[Any] | None) -> Strategy:
    mesh = device_mesh(devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    local = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    mapped = jax.pmap(
        partial(train_step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0, None, None),
        out_axes=(None, None),
        donate_argnums=0,
        devices=None if devices is None else list(devices),
    )

    def shardings(state: TrainState) -> Any:
        return jax.tree.map(lambda _: replicated, state)

    def step(state: TrainState, batch: Any, key: jax.Array, frozen: Any = None) -> tuple[TrainState, Metrics]:
        return mapped(state, batch, key, frozen)

    def shapes(state: Any, batch: Any, key: Any, frozen: Any = None) -> tuple[Any, ...]:
        def divided(x: Any) -> Any:
            return jax.ShapeDtypeStruct((mesh.size, x.shape[0] // mesh.size, *x.shape[1:]), x.dtype)

        return state, jax.tree.map(divided, batch), key, frozen

    def everywhere(x: jax.Array) -> jax.Array:
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, replicated, parts)

    def joined(state: TrainState) -> TrainState:
        # Of several processes pmap gives each arrays of its own devices alone; for a step they do, and joining
        # a thousand arrays takes tens of milliseconds.
        return state if jax.process_count() == 1 else jax.tree.map(everywhere, state)

    def put(batch: Any) -> Any:
        return jax.tree.map(lambda x: np.reshape(x, (local, -1, *np.shape(x)[1:])), batch)

    return Strategy(
        create=_creator(shardings),
        shardings=shardings,
        step=step,
        put=put,
        replicate=lambda tree: jax.device_put(tree, replicated),
        flops=partial(count_flops, mapped),
        shapes=shapes,
        lower=mapped.lower,  # type: ignore[attr-defined]
        joined=joined,
        local=lambda tree: jax.tree.map(lambda x: x.addressable_shards[0].data, tree),
    )


def _fsdp(train_step: Callable[..., Any], devices: Sequence[Any] | None, least: int) -> Strategy:
    mesh = device_mesh(devices)
    split, replicated = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())

    def shardings(state: TrainState) -> Any:
        return jax.tree.map(lambda x: NamedSharding(mesh, shard_largest(x.shape, mesh.size, least)), state)

    # Without pinned outputs XLA may choose others for the new state, and compile again.
    def pinned(state: TrainState, batch: Any, key: jax.Array, frozen: Any = None) -> tuple[TrainState, Metrics]:
        new, metrics = train_step(state, batch, key, frozen)
        return jax.lax.with_sharding_constraint(new, shardings(state)), metrics

    def put(batch: Any) -> Any:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, np.asarray(x)), batch)

    compiled = jax.jit(pinned, donate_argnums=0)

    def flops(*arguments: Any) -> float:
        return count_flops(compiled, *arguments) / mesh.size

    def shapes(state: Any, batch: Any, key: Any, frozen: Any = None) -> tuple[Any, ...]:
        def placed(x: Any, place: Any) -> Any:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

        def everywhere(tree: Any) -> Any:
            return jax.tree.map(lambda x: placed(x, replicated), tree)

        divided = jax.tree.map(lambda x: placed(x, split), batch)
        return jax.tree.map(placed, state, shardings(state)), divided, everywhere(key), everywhere(frozen)

    def local(tree: Any) -> Any:
        # Pictures are drawn by each process for itself, which needs what the others hold.
        return tree if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)

    return Strategy(
        create=_creator(shardings),
        shardings=shardings,
        step=compiled,
        put=put,
        replicate=lambda tree: jax.device_put(tree, replicated),
        flops=flops,
        shapes=shapes,
        lower=compiled.lower,
        joined=lambda state: state,
        local=local,
    )
