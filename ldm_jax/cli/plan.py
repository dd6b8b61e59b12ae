"""plan: what an experiment would take, on this machine or on TPUs that aren't here, before anything is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_jax.cli.parsing import Parser, parse_config
from ldm_jax.configfile import load_config
from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.experiment.planning import Plan


WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""For libtpu, which would otherwise ask the network where it is, and let one process alone compile."""


def plan(args: Sequence[str]) -> int:
    """plan CONFIG [--topology v5e:4x4] [--strategy pmap fsdp] [--stage S] [--largest-batch] [--any.field VALUE]"""
    parser = Parser(
        prog="ldm-jax plan",
        description="Compiles the training steps for devices that need not be here, and says what they take.",
        epilog="Fields of the experiment are options, as for train; --data.source blank:1000 stands for absent data.",
    )
    parser.add_argument("config", help="as for train")
    parser.add_argument(
        "--topology", help="TPUs such as v5e:4x4, v5p:2x2x2 or v6e:16x16 (needs libtpu; default: this machine)"
    )
    parser.add_argument("--strategy", nargs="+", choices=("pmap", "fsdp"), default=["pmap", "fsdp"], help="to compare")
    parser.add_argument("--stage", choices=("autoencoder", "denoiser", "all"), default="all", help="of the experiment")
    parser.add_argument("--largest-batch", action="store_true", help="find the largest batch that fits, by bisection")
    parser.add_argument("--out", type=Path, help="plan.json")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    options, rest = parser.parse_known_args(args)

    from ldm_jax.experiment.planning import plan as plans
    from ldm_jax.files import check_file, whole

    if options.out is not None:
        check_file(options.out, (".json",), overwrite=options.overwrite)
    config = parse_config(rest, load_config(options.config))
    devices = devices_of(options.topology)
    found = []
    for made in plans(config, devices, options.strategy, options.stage, options.largest_batch):
        print("\n".join(lines(made)), flush=True)
        found.append(made)
    if options.out is not None:
        with whole(options.out) as place:
            place.write_text(json.dumps([record(made) for made in found], indent=1) + "\n")
        print(f"plan: {options.out}")
    return 0


def devices_of(topology: str | None) -> Sequence[Any]:
    """The devices of a topology that isn't here, or this machine's; InputError where the name means none."""
    import jax

    if topology is None:
        return jax.devices()
    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (RuntimeError, ValueError) as error:
        import importlib.util

        if importlib.util.find_spec("libtpu") is None:
            raise InputError(f'topology: {topology} needs libtpu; pip install "ldm-jax[plan]"') from error
        why = str(error).strip().splitlines()[0][:160]
        raise InputError(f"topology: {topology!r} must be one such as v5e:4x4 or v5p:2x2x2 ({why})") from error


def lines(made: Plan) -> list[str]:
    """A plan as a table of two columns."""
    from ldm_jax.training.chips import GIB, chip_of

    rows = {"parameters": f"{made.parameters:,}", "FLOPs of a device's step": f"{made.flops:.3g}"}
    chip = chip_of(made.kind)
    room = f" of {chip[1].memory / GIB:.0f}" if chip else ""
    if made.costs is None:
        rows["memory of a device"] = f"does not fit: {made.refused}"
    else:
        costs = made.costs
        rows["memory of a device"] = (
            f"{costs.memory / GIB:.2f} GiB{room}, {costs.temporary / GIB:.2f} in the step alone"
        )
        sent = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in costs.collectives.items())
        rows["sent in a step"] = f"{costs.sent / 1e6:.1f} MB" + (f" ({sent})" if sent else "")
    if made.seconds is not None:
        bound = max(made.times, key=lambda name: made.times[name])
        hours = made.seconds * made.steps / 3600
        rows["a step takes at least"] = f"{1000 * made.seconds:.3g} ms, bound by {bound}"
        rows["images a second, at most"] = f"{made.batch_size / made.seconds:,.0f}"
        rows[f"{made.steps:,} steps"] = f"{hours:.3g} hours, {hours * made.devices:.3g} device-hours, at least"
    if made.largest is not None:
        rows["largest batch that fits"] = str(made.largest)
    width = max(map(len, rows))
    head = f"{made.stage}, {made.strategy}, batch {made.batch_size} on {made.devices} x {made.kind}"
    return [head, *(f"  {name:{width}}  {value}" for name, value in rows.items()), ""]


def record(made: Plan) -> dict[str, Any]:
    """A plan as JSON has it."""
    costs = None if made.costs is None else {**made.costs._asdict(), "memory": made.costs.memory}
    return {**made._asdict(), "costs": costs, "seconds": made.times}
