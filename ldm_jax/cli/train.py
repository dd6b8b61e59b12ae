"""train: an experiment from its config to the saved model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_jax.cli import run
from ldm_jax.cli.parsing import Parser, help_text, parse_config
from ldm_jax.config import Config
from ldm_jax.configfile import load_config
from ldm_jax.errors import InputError
from ldm_jax.smoke import shrink

if TYPE_CHECKING:
    from ldm_jax.experiment.run import StageName

WANDB = "show numbers and pictures in a project of Weights & Biases, too (extra [wandb])"


def train(args: Sequence[str]) -> int:
    """train.py CONFIG [--workdir DIR] [--stage S] [--smoke] [--any.field VALUE]."""
    parser = Parser(
        prog="train.py",
        description="Trains the experiment that a config file describes, or resumes an existing run.",
        epilog="Every field of the experiment is an option, too: train.py CONFIG --help lists them with their values.",
        add_help=False,
    )
    parser.add_argument(
        "config",
        nargs="?",
        help="a .py file with get_config() (FILE.py:NAME for one of a family), a run's config.json, or the name of a "
        "config that comes with the package, such as quickstart",
    )
    parser.add_argument("--workdir", type=Path, help="the run's folder (default: runs/NAME for configs/NAME.py)")
    parser.add_argument("--stage", choices=("autoencoder", "denoiser", "all"), default="all", help="what to train")
    parser.add_argument("--smoke", action="store_true", help="the same experiment made tiny: about a minute")
    parser.add_argument("--profile", action="store_true", help="trace a few steps of each stage to WORKDIR/profile")
    parser.add_argument("--wandb", metavar="PROJECT", help=WANDB)
    parser.add_argument(
        "--distributed",
        nargs="?",
        const="",
        metavar="HOST:PORT,PROCESSES,INDEX",
        help="this is one of several processes; without a value JAX finds them (TPU pods, Slurm, Open MPI, ...)",
    )
    parser.add_argument("-h", "--help", action="store_true", help="this text and, after CONFIG, the fields' help")
    options, rest = parser.parse_known_args(args)
    if options.help:
        parser.print_help()
        config = load_config(options.config) if options.config else Config()
        section = rest[0] if rest and not rest[0].startswith("--") else None
        print(f"\nAny field of the experiment:\n{help_text(config, section)}")
        raise SystemExit(0)
    if options.config is None:
        raise InputError("config: name a file, such as configs/quickstart.py")
    config = load_config(options.config)
    if options.smoke:
        config = shrink(config)
    config = parse_config(rest, config)

    name = Path(options.config.replace(".py:", "-").replace(":", "-")).stem
    workdir = options.workdir or (
        Path(options.config).parent if name == "config" else Path("runs") / (f"{name}-smoke" if options.smoke else name)
    )
    return train_config(config, workdir, options.stage, options.distributed, options.profile, options.wandb)


def train_config(
    config: Config,
    workdir: Path,
    stage: StageName = "all",
    distributed: str | None = None,
    profile: bool = False,
    wandb: str | None = None,
) -> int:
    """Trains an experiment in its folder and says where what it made is; the exit code."""
    from ldm_jax.experiment import Run
    from ldm_jax.experiment.run import check_order
    from ldm_jax.processes import join, main_process

    if distributed is not None:
        join(distributed)
    # Before a run's folder is made; the run itself looks again.
    check_order(config, workdir, stage)
    picture = Run(config, workdir, profile, wandb).train(stage)
    if main_process():
        made = next((name for name in ("adapter", "embedding") if (workdir / name).is_dir()), "model")
        print(f"{made}: {workdir / made}")
        print(f"samples: {picture}" if stage != "autoencoder" else f"reconstructions: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:]))
