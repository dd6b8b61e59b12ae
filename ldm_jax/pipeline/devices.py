"""Where a model's parameters lie decides who computes: one device, or several that share each batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.mesh import device_mesh


def everywhere() -> NamedSharding | None:
    """Whole on each of this process's devices, as `load(..., sharding=)` takes it; None where there is only one."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return None
    return NamedSharding(device_mesh(devices), PartitionSpec())


def mesh_of(params: Any) -> Mesh | None:
    """The devices that params were put on by a NamedSharding; None for a single one."""
    leaf = next(iter(jax.tree.leaves(params)), None)
    mesh = getattr(getattr(leaf, "sharding", None), "mesh", None)
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def split(params: Any) -> bool:
    """Whether any of the parameters is sharded, so that no device holds all of them."""
    return any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params) if hasattr(leaf, "sharding"))


def dividing(params: Any, batch: int) -> Mesh | None:
    """The devices of params, if they can share a batch of this size equally."""
    mesh = mesh_of(params)
    return mesh if mesh is not None and batch % mesh.size == 0 and not split(params) else None


def shared(fn: Callable[..., Any], mesh: Mesh | None, params: Any, *batch: Any) -> Any:
    """fn(params, *batch), every device with an equal part of the batch's leading axes; no mesh: fn as it is.

    With sharded parameters there is no mesh to give: XLA gathers each layer's where it is needed.
    """
    if mesh is None:
        return fn(params, *batch)
    part = PartitionSpec(mesh.axis_names)
    # Not left to XLA: guidance joins two batches, which it would send around among the devices at every step.
    specs = PartitionSpec(), *(part for _ in batch)
    return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=part, check_vma=False)(params, *batch)
