"""Several processes as one: a TPU pod's or a cluster's hosts, which share a file system."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils

from ldm_jax.errors import InputError


def join(spec: str = "") -> None:
    """Makes this process one of several; must come before JAX computes anything.

    spec: "" where JAX finds out by itself (TPU pods, Slurm, Open MPI, ...), otherwise "HOST:PORT,PROCESSES,INDEX" with
    the address at which process 0 can be reached.

    Raises:
      InputError: spec has another form, or nothing was found out.
    """
    address, *rest = spec.split(",")
    numbers = [int(text) for text in rest if text.isdecimal()]
    right = len(rest) == len(numbers) == 2 and ":" in address and numbers[1] < numbers[0]
    if spec and not right:
        raise InputError(f"distributed: {spec!r} must be HOST:PORT,PROCESSES,INDEX, such as 10.0.0.1:1234,2,0")
    try:
        if spec:
            jax.distributed.initialize(address, numbers[0], numbers[1])
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"distributed: {str(error).strip().splitlines()[0].rstrip('.')}; try HOST:PORT,PROCESSES,INDEX"
        ) from error


def main_process() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when every process has reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(says: bool) -> bool:
    """Whether it is true in any process; every process must call this at the same place."""
    if jax.process_count() == 1:
        return says
    return bool(np.any(multihost_utils.process_allgather(np.asarray(says))))
