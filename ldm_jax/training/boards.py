"""Where a run's numbers and pictures are shown while it trains: TensorBoard, and Weights & Biases where asked for."""

from __future__ import annotations

import math
import os
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from ldm_jax.errors import InputError


@runtime_checkable
class Board(Protocol):
    """What shows a stage's numbers and pictures; a new kind of it is a class here and an option of the commands."""

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Numbers of one step by name."""
        ...

    def picture(self, stage: str, step: int, path: Path) -> None:
        """A PNG that was written after a step."""
        ...

    def close(self, failed: bool = False) -> None:
        """Nothing more comes; failed: because of an error or a signal."""
        ...


class TensorBoard:
    """TensorBoard's files, on disk when `write` returns.

    SummaryWriter has a thread that writes them. On a full disk it dies, and what feeds it then waits for ever.
    """

    def __init__(self, folder: Path, start: int):
        """start: steps done; what an earlier file says of later ones doesn't count."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        for event in (Event(file_version="brain.Event:2"), Event(session_log=SessionLog(status=SessionLog.START))):
            event.step = start
            self._write(event)

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(f"{stage}/{name}", value)))
        self._file.flush()

    def picture(self, stage: str, step: int, path: Path) -> None:
        image = Summary.Image(encoded_image_string=path.read_bytes())
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=f"{stage}/pictures", image=image)])))
        self._file.flush()

    def _write(self, event: Any) -> None:
        """One record of TFRecord's format: length, its checksum, data, their checksum."""
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        for part in (length, data):
            self._file.write(part + struct.pack("<I", masked_crc32c(part)))

    def close(self, failed: bool = False) -> None:
        self._file.close()


class WeightsAndBiases:
    """A run of Weights & Biases (extra `[wandb]`); it reads WANDB_API_KEY, WANDB_MODE=offline and its other variables.

    A run that is resumed in the same folder goes on in the same place there.
    """

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
        """Raises InputError where the package is missing or it can't begin (no key, no such project)."""
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise InputError('wandb: the package is not installed; pip install "ldm-jax[wandb]"') from error
        place = workdir / "wandb" / "id"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.write_text(secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=project,
                name=workdir.name,
                dir=workdir,
                id=place.read_text(),
                resume="allow",
                config=dict(config),
            )
        except wandb.Error as error:
            told = " ".join(str(error).split())
            raise InputError(f"wandb: {told}; `wandb login`, or WANDB_MODE=offline to send it later") from error
        self._image = wandb.Image
        self._defined: set[str] = set()

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        self._log(stage, step, finite)

    def picture(self, stage: str, step: int, path: Path) -> None:
        self._log(stage, step, {"pictures": self._image(str(path))})

    def _log(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        # Its own step may only grow, and each stage begins at 1.
        if stage not in self._defined:
            self._run.define_metric(f"{stage}/step")
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._defined.add(stage)
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def close(self, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))
