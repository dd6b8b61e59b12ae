"""The one mesh that everything here is split over: devices side by side, on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

AXIS = "data"


def device_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """The devices (all of all processes, where None) on one axis."""
    devices = jax.devices() if devices is None else devices
    # Auto: make_mesh defaults to Explicit axes, which Linen does not know.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
