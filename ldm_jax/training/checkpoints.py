"""Checkpoints of the train state through Orbax: asynchronous, the newest kept, the damaged ones passed over.

Beside the arrays lies a record: the arrays' fingerprints, their names and shapes, and digests of what the stage builds
on. So a checkpoint of another experiment is told apart from a damaged one, and nothing that is whole is moved aside.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import lax

from ldm_jax.errors import InputError
from ldm_jax.processes import barrier, main_process
from ldm_jax.training.step import TrainState

log = logging.getLogger("ldm_jax")

SMALL = 2**26
"""Bytes of a state whose fingerprints are taken on the host."""
WHOLE = 2**20
"""Bytes of a replicated array that is saved from one device: cutting it into a part a device costs more."""
WORDS: dict[int, Any] = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
"""What an array's elements are read as, by their size in bytes."""


def _is_key(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _fingerprint(x: jax.Array) -> jax.Array:
    """A sum of all elements' bits, each times an odd number of its place, modulo 2^32.

    Odd numbers have an inverse, so no single changed element goes unnoticed. The sum is the same however the array is
    split over devices, and is taken where the array lies: nothing is copied or moved between devices for it.
    """
    if _is_key(x):
        x = jax.random.key_data(x)
    bits = x if x.dtype == jnp.bool_ else lax.bitcast_convert_type(x, WORDS[x.dtype.itemsize])
    bits, place = bits.astype(jnp.uint32), jnp.ones(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        place = place * jnp.uint32(2654435761) + lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return (bits * (place * jnp.uint32(2) + jnp.uint32(1))).sum(dtype=jnp.uint32)


def _host_fingerprint(x: np.ndarray) -> int:
    """The same number, by numpy."""
    size = x.dtype.itemsize
    bits = x if x.dtype == np.bool_ else np.ascontiguousarray(x).view(np.dtype(f"u{min(size, 4)}"))
    bits = bits.reshape(*x.shape, 2) if size == 8 else bits.reshape(x.shape)
    place = np.ones(bits.shape, np.uint32)
    with np.errstate(over="ignore"):
        for axis in range(bits.ndim):
            count = np.arange(bits.shape[axis], dtype=np.uint32)
            place = place * np.uint32(2654435761) + count.reshape(-1, *(1,) * (bits.ndim - 1 - axis))
        return int((bits.astype(np.uint32) * (place * np.uint32(2) + np.uint32(1))).sum(dtype=np.uint32))


@jax.jit
def _fingerprints(leaves: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """(fingerprints [n], whether every number is finite)."""
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()
    return jnp.stack([_fingerprint(leaf) for leaf in leaves]), finite


def _lone(x: jax.Array) -> jax.Array:
    """The first device's copy of a small array that all have: Orbax compiles a program for every part it cuts off."""
    alike = x.is_fully_replicated and x.is_fully_addressable and len(x.sharding.device_set) > 1
    return x.addressable_shards[0].data if alike and x.nbytes <= WHOLE else x


def _paths(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def fingerprints(state: Any) -> tuple[dict[str, int], bool]:
    """A fingerprint of every array by path, and whether all of them are finite."""
    leaves = _paths(state)
    arrays = list(leaves.values())
    if sum(leaf.nbytes for leaf in arrays) < SMALL and all(leaf.is_fully_addressable for leaf in arrays):
        # Copied in no time, where the program above would take seconds to compile.
        host = [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in arrays]
        finite = all(bool(np.isfinite(x).all()) for x in host if jnp.issubdtype(x.dtype, jnp.floating))
        return {path: _host_fingerprint(x) for path, x in zip(leaves, host, strict=True)}, finite
    values, finite = _fingerprints(arrays)
    return dict(zip(leaves, np.asarray(values).tolist(), strict=True)), bool(finite)


def structure(state: Any) -> dict[str, str]:
    """Type and shape of every array by path."""
    return {path: f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in _paths(state).items()}


def _stored(state: TrainState) -> dict[str, Any]:
    """The state by field; one without averages as it was stored before there were any."""
    fields = state._asdict()
    return fields if state.averages else {name: value for name, value in fields.items() if name != "averages"}


def _sealed(content: Mapping[str, Any]) -> dict[str, str]:
    text = json.dumps(content)
    return {"content": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _opened(record: Mapping[str, str]) -> dict[str, Any]:
    if hashlib.sha256(record["content"].encode()).hexdigest() != record["sha256"]:
        raise ValueError("its record is not the one that was saved")
    return json.loads(record["content"])


class Checkpoints:
    """The checkpoints of one stage in one folder, named by step."""

    def __init__(self, folder: Path, inputs: Mapping[str, str] | None = None, keep: int = 2):
        """inputs: digests of what the stage builds on, by name."""
        self.folder, self.inputs = folder.absolute(), dict(inputs or {})
        # A process killed while it saved leaves a temporary folder behind; Orbax removes it here.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: TrainState) -> bool:
        """Begins to save; returns once the arrays are copied, before they are on disk. False: not finite, not saved."""
        found, finite = fingerprints(state)
        if not finite:
            return False
        record = _sealed({"fingerprints": found, "structure": structure(state), "inputs": self.inputs})
        arrays = ocp.args.StandardSave(_stored(jax.tree.map(_lone, state)))
        args = ocp.args.Composite(state=arrays, record=ocp.args.JsonSave(record))
        self._manager.save(step, args=args)
        return True

    def restore(self, template: Any) -> tuple[int, TrainState] | None:
        """The newest whole checkpoint as (step, state), or None.

        template: a TrainState of jax.ShapeDtypeStruct with shardings. A checkpoint that can't be read is reported and
        moved aside (nothing is deleted), and the one before is tried.

        Raises:
          InputError: a whole checkpoint holds other arrays, or was built on other inputs; it stays where it is.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))
                record = _opened(found["record"])
            except Exception as error:
                if (self.folder / str(step) / "digests").is_dir():
                    where = self.folder / str(step)
                    raise InputError(
                        f"checkpoint: {where} was written by ldm_jax 0.1; finish that run with it, or take another "
                        "--workdir"
                    ) from error
                self._aside(step, "damaged", error)
                continue
            self._check(step, record, template)
            try:
                args = ocp.args.Composite(state=ocp.args.StandardRestore(_stored(template)))
                state = TrainState(**self._manager.restore(step, args=args)["state"])
                if fingerprints(state)[0] != record["fingerprints"]:
                    raise ValueError("its arrays are not the ones that were saved")
                return step, state
            except Exception as error:
                self._aside(step, "damaged", error)
        return None

    def _check(self, step: int, record: Mapping[str, Any], template: Any) -> None:
        where, wanted = self.folder / str(step), structure(template)
        for path in [*wanted, *record["structure"]]:
            here, now = record["structure"].get(path, "nothing"), wanted.get(path, "nothing")
            if here != now:
                raise InputError(
                    f"checkpoint: {where} holds {here} at {path}, this experiment has {now}; take another --workdir"
                )
        for name in [*self.inputs, *record["inputs"]]:
            if record["inputs"].get(name) != self.inputs.get(name):
                raise InputError(
                    f"checkpoint: {where} was trained with another {name} than there is now; remove {self.folder} to "
                    "train it anew, or take another --workdir"
                )

    def discard(self, step: int, reason: str) -> bool:
        """Moves the checkpoint of `step` aside, if there is one; False where there is none."""
        self._manager.wait_until_finished()
        if step not in self._manager.all_steps():
            return False
        self._aside(step, "diverged", ValueError(reason))
        return True

    def _aside(self, step: int, why: str, error: Exception) -> None:
        aside = self.folder.parent / f"{self.folder.name}-{why}-{step}"
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        log.warning("checkpoint %s is %s (%s): moved to %s", self.folder / str(step), why, reason, aside)
        if main_process():
            _free_name(self.folder / str(step), aside)
        barrier(f"checkpoint {step} moved")
        self._manager.reload()

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        return max(self._manager.all_steps(), default=None)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _free_name(source: Path, target: Path) -> None:
    n, name = 1, target
    while name.exists():
        n, name = n + 1, target.with_name(f"{target.name}-{n}")
    source.rename(name)
