"""The folder of a run: what it holds, who may write to it, and what it may be continued with."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.config import Config
from ldm_jax.errors import InputError
from ldm_jax.files import whole
from ldm_jax.pretrained import hub
from ldm_jax.processes import main_process
from ldm_jax.serialization import to_tree

CHANGEABLE = ("sampling", "parallel")
"""What may change when a run is resumed or extended; everything else would make it another experiment."""
CHANGEABLE_TRAINING = (
    "steps",
    "learning_rate",
    "clip",
    "patience",
    "retreats",
    "log_every",
    "sample_every",
    "checkpoint_every",
)
"""Likewise, of a stage."""


RETREATS = "retreats.json"


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names; sections in a list are named by their type."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {item.get("type", str(i)): item for i, item in enumerate(value)}
        out.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return out


def _may_change(name: str) -> bool:
    section, *rest = name.split(".")
    return section in CHANGEABLE or (section == "stages" and len(rest) == 2 and rest[1] in CHANGEABLE_TRAINING)


def check_same(old: Config, new: Config, workdir: Path) -> None:
    """InputError where a run folder's config and the new one differ in more than how long and how it is watched."""
    before, after = (flat(to_tree(config)) for config in (old, new))
    names = [*after, *(name for name in before if name not in after)]
    differing = [name for name in names if before.get(name) != after.get(name) and not _may_change(name)]
    if differing:
        name = differing[0]
        more = f" (and {len(differing) - 1} more fields)" if len(differing) > 1 else ""
        raise InputError(
            f"{name}: {after.get(name)} but {workdir} was started with {before.get(name)}{more}; "
            "take another --workdir or the old value"
        )


def prepare(workdir: Path, config: Config) -> Config | None:
    """Creates the run's folder and writes config.json, after checking that both can be done and nothing is lost.

    Returns the config that the run was last continued with, None for a new one.
    """
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
        # Of a run that another process trains not even the config is changed.
        with Lock(workdir), whole(path) as temporary:
            temporary.write_text(config.to_json())
    return old


def slowed(config: Config, workdir: Path) -> Config:
    """The config with the learning rates that the run goes on with: halved each time that it went back."""
    found = retreats(workdir)
    rates = {s.label: {"learning_rate": s.learning_rate * 0.5 ** found.get(s.label, 0)} for s in config.stages}
    return config.with_stages(**rates)


def retreats(workdir: Path) -> dict[str, int]:
    """How often each stage went back to an earlier checkpoint; a run without the file never did."""
    path = workdir / RETREATS
    return json.loads(path.read_text()) if path.exists() else {}


def note_retreat(workdir: Path, stage: str) -> None:
    """Counts that a stage goes back, so that the run is the same when it is resumed."""
    found = retreats(workdir)
    with whole(workdir / RETREATS) as temporary:
        temporary.write_text(json.dumps(found | {stage: found.get(stage, 0) + 1}) + "\n")


def seams(old: Config | None, new: Config, done: Callable[[str], int | None]) -> list[str]:
    """A line for each stage whose learning rate jumps where the run goes on, as its decay is laid over other steps.

    done: from a stage's label to the steps that it was trained for, None for none.
    """
    lines = []
    for stage in new.stages:
        before = None if old is None else old.stage(type(stage))
        step = done(stage.label)
        if before is None or not step or step >= stage.steps or before.steps == stage.steps:
            continue
        was, now = (float(np.asarray(training.rate(step))) for training in (before, stage))
        if abs(now - was) > 0.01 * max(was, now):
            lines.append(
                f"stages.{stage.label}.steps: {stage.steps} for {before.steps} lays the decay over more steps: at step "
                f"{step} the learning rate goes from {was:.3g} to {now:.3g}; decay NoDecay has no such seam"
            )
    return lines


class Lock:
    """Held while a run is trained, so that two processes do not write to one folder."""

    def __init__(self, workdir: Path):
        self._path = workdir / ".lock"

    def __enter__(self) -> Lock:
        self._file = self._path.open("a+") if main_process() else None
        if self._file is None:
            return self
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise InputError(f"workdir: {self._path.parent} is being trained by {holder}; wait, or end it") from error
        if not _is_at(self._file.fileno(), self._path):
            # Whoever held it took the file away after it was opened here: another process could lock a new one.
            self._file.close()
            return self.__enter__()
        self._file.truncate(0)
        self._file.write(f"{socket.gethostname()}, process {os.getpid()}")
        self._file.flush()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def place_of_given(path: str, workdir: Path, part: str) -> Path:
    """Where a given part is read from: the run's own copy, once there is one; a folder, a file, hf:ORG/NAME."""
    own = workdir / "given" / part
    if not own.is_dir():
        return hub.local(path)
    files = list(own.iterdir())
    return files[0] if len(files) == 1 and files[0].is_file() else own


def keep_given(source: Path, workdir: Path, part: str) -> None:
    """Copies a given part into the run's folder, by hard links where possible, so that the run needs no other."""
    own = workdir / "given" / part
    if own.is_dir() or not main_process():
        return
    temporary = own.with_name(f"{part}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if source.is_file():
        temporary.mkdir(parents=True)
        _link(str(source), str(temporary / source.name))
    else:
        shutil.copytree(source, temporary, copy_function=_link)
    temporary.rename(own)


def _link(source: str, target: str) -> str:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
    return target


def identity(source: str, limit: int = 0) -> str:
    """What tells the training data of an experiment from others', as JSON."""
    return json.dumps({"source": source, "limit": limit})
