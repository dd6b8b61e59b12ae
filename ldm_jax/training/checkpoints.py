"""Checkpoints of the train state through Orbax: asynchronous, the newest kept, the damaged ones passed over."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ldm_jax.training.processes import main_process, together
from ldm_jax.training.step import TrainState

log = logging.getLogger("ldm_jax")


def digests(state: TrainState) -> dict[str, int | None]:
    """CRC-32 of every array by path, None of one split over processes: Orbax does not notice changed bytes."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).tobytes())
        if leaf.is_fully_addressable or leaf.is_fully_replicated
        else None
        for path, leaf in leaves
    }


def same(stored: dict[str, int | None], now: dict[str, int | None]) -> bool:
    """Whether these are the digests of one state; an array that was or is split is known by its name alone."""
    return stored.keys() == now.keys() and all(
        now[name] == digest or None in (now[name], digest) for name, digest in stored.items()
    )


class Checkpoints:
    """The checkpoints of one stage in one folder, named by step."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder.absolute()
        # A process killed while it saved leaves a temporary folder behind; Orbax removes it here.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: TrainState) -> None:
        """Begins to save; returns once the arrays are copied, before they are on disk."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), digests=ocp.args.JsonSave(digests(state)))
        self._manager.save(step, args=args)

    def restore(self, template: Any) -> tuple[int, TrainState] | None:
        """The newest whole checkpoint as (step, state), or None.

        template: a TrainState of jax.ShapeDtypeStruct with shardings. A checkpoint that can't be read is reported and
        moved aside (nothing is deleted), and the one before is tried.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                args = ocp.args.Composite(state=ocp.args.StandardRestore(template), digests=ocp.args.JsonRestore())
                found = self._manager.restore(step, args=args)
                if not same(found["digests"], digests(found["state"])):
                    raise ValueError("its arrays are not the ones that were saved")
                return step, found["state"]
            except Exception as error:
                aside = self.folder.parent / f"{self.folder.name}-damaged-{step}"
                reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
                log.warning("checkpoint %s is damaged (%s): moved to %s", self.folder / str(step), reason, aside)
                if main_process():
                    _free_name(self.folder / str(step), aside)
                together(f"checkpoint {step} moved")
                self._manager.reload()
        return None

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _free_name(source: Path, target: Path) -> None:
    n, name = 1, target
    while name.exists():
        n, name = n + 1, target.with_name(f"{target.name}-{n}")
    source.rename(name)
