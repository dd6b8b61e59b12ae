"""average: a run's model with an average of its weights over another length of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cli.parsing import Parser


def average(args: Sequence[str]) -> int:
    """average RUN --length L --out MODEL [--step N]"""
    parser = Parser(
        prog="ldm-jax average",
        description="Rebuilds an average of a run's weights, of any length, from the snapshots that it left.",
        epilog="Train with --stages.denoiser.averages.every N; evaluate.py --sweep ema=0.03,0.1 compares lengths.",
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.number(
        "--length", float, required=True, help="standard deviation of the average, as a share of the steps, to 0.28"
    )
    parser.number("--step", int, least=1, help="the average at this step, one with a snapshot (default: the last)")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder for the model")
    parser.add_argument("--overwrite", action="store_true", help="replace the model at --out")
    options = parser.parse_args(args)

    from ldm_jax.cli.convert import check_destination, replacing
    from ldm_jax.experiment.averages import check_snapshots, with_average
    from ldm_jax.pipeline import load
    from ldm_jax.training.averages import check_length

    check_length(options.length, "length")
    check_snapshots(options.run, "run")
    check_destination(options.run, options.out, "published", overwrite=options.overwrite, field="out")
    model = with_average(load(options.run), options.run, options.length, options.step)
    with replacing(options.out) as place:
        model.save(place)
    print(f"model: {options.out}")
    return 0
