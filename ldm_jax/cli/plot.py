"""plot: the losses, PSNR and gradient norms of runs as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cli.parsing import Parser


def plot(args: Sequence[str]) -> int:
    """plot RUN ... [--out x.png]"""
    parser = Parser(prog="ldm-jax plot", description="Draws what runs logged while they trained, as one picture.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, finished or not")
    parser.add_argument("--out", type=Path, default=Path("plot.png"), help="the .png to write (default: plot.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    options = parser.parse_args(args)

    from ldm_jax.errors import InputError
    from ldm_jax.experiment import curves
    from ldm_jax.files import check_file

    check_file(options.out, (".png",), overwrite=options.overwrite)
    if twice := [run for run in options.runs if options.runs.count(run) > 1]:
        raise InputError(f"run: {twice[0]} is named more than once")
    # The shortest names that tell them apart.
    names = [run.resolve().name for run in options.runs]
    named = names if len(set(names)) == len(names) else [str(run) for run in options.runs]
    curves.plot({name: curves.read_curves(run) for name, run in zip(named, options.runs, strict=True)}, options.out)
    print(options.out)
    return 0
