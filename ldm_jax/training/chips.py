"""What accelerators hold and move, and what a compiled step asks of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from ldm_jax.training.flops import PEAK, longest_start

GIB = 2**30


class Chip(NamedTuple):
    """One device."""

    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second between memory and cores."""
    links: float
    """Bytes a second to other devices, all links together, in one direction."""


CHIPS = {
    "NVIDIA A100": Chip(80 * GIB, 2039e9, 300e9),
    "NVIDIA H100": Chip(80 * GIB, 3350e9, 450e9),
    "NVIDIA H200": Chip(141e9, 4800e9, 450e9),
    "TPU v5 lite": Chip(16 * GIB, 819e9, 100e9),
    "TPU v5": Chip(95 * GIB, 2765e9, 300e9),
    "TPU v6 lite": Chip(32 * GIB, 1640e9, 224e9),
}
"""By the start of `device_kind`, from the makers' data sheets (which count links in both directions).

Not TPU v4, of whose two cores a topology makes two devices.
"""


def chip_of(kind: str) -> tuple[float, Chip] | None:
    """(dense bfloat16 FLOP/s, the rest) of a device's `device_kind`; None where it isn't known."""
    name = longest_start(kind, CHIPS)
    return None if name is None else (PEAK[name], CHIPS[name])


class Costs(NamedTuple):
    """Of one device and one step, in bytes."""

    arguments: int
    """State and batch, which stay in memory."""
    temporary: int
    """Activations and what else is there during the step."""
    accessed: float
    """Read and written by the program, as XLA counts it."""
    collectives: Mapping[str, float]
    """Sent by each kind of collective, around a ring."""

    @property
    def memory(self) -> int:
        """The most that is there at once; outputs take the place of donated arguments."""
        return self.arguments + self.temporary

    @property
    def sent(self) -> float:
        """By all collectives."""
        return sum(self.collectives.values())


def costs_of(compiled: Any, devices: int) -> Costs:
    """What a compiled step asks of each of `devices`."""
    memory, found = compiled.memory_analysis(), compiled.cost_analysis() or {}
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporary = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    accessed = float(found.get("bytes accessed", 0.0))
    return Costs(kept, temporary, accessed, collectives(compiled.as_text(), devices))


WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
SHARES = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0, "collective-permute": 1.0}
"""How often the whole array goes around the ring."""
OPERATION = re.compile(r"= (.*?) (" + "|".join(SHARES) + r")(-start)?\(")
ARRAY = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\]")
CHANNEL = re.compile(r"channel_id=(\d+)")


def _size(dims: str) -> int:
    return prod(int(n) for n in dims.split(",") if n)


def collectives(hlo: str, devices: int) -> dict[str, float]:
    """Bytes that each device sends for every kind of collective in a program's text; those in a loop count once.

    Around a ring of n, an array takes (n - 1) / n of its bytes from each device to gather or to scatter, and twice
    that to reduce everywhere.
    """
    found: dict[str, tuple[str, float]] = {}
    function = ""
    for number, line in enumerate(hlo.splitlines()):
        if line.rstrip().endswith("{"):
            function = line
        match = OPERATION.search(line)
        if match is None:
            continue
        result, name, started = match.groups()
        sizes = [_size(dims) * WIDTHS.get(kind, 4) for kind, dims in ARRAY.findall(result)]
        # The result of a start holds its operands, too.
        whole = max(sizes, default=0) if started else sum(sizes)
        if name == "reduce-scatter":
            whole *= devices
        if "all-reduce-scatter" in function:
            # XLA for TPUs writes a scattered sum as a whole one of which a slice is taken.
            name = "reduce-scatter"
        # One that is fused with other work is written several times, by its start, its middle and its end.
        channel = CHANNEL.search(line) if "fus" in function.split("(")[0] else None
        found[channel[1] if channel else f"line {number}"] = name, whole * SHARES[name] * (devices - 1) / devices
    total: dict[str, float] = {}
    for name, size in found.values():
        total[name] = total.get(name, 0.0) + size
    return total
