"""The commands. Exit codes: 0 done, 2 wrong input, 3 stopped by a signal after saving, 1 a bug."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ldm_jax.config import Config, load_config, shrink
from ldm_jax.errors import InputError
from ldm_jax.runtime import configure

log = logging.getLogger("ldm_jax")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are InputErrors: one line, like everyone else's."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse_config(args: Sequence[str], default: Config, prog: str) -> Config:
    """The experiment `default` with the dotted fields in args put over it, by tyro; InputError in one line."""
    import tyro

    screen = io.StringIO()
    try:
        with contextlib.redirect_stderr(screen):
            return tyro.cli(
                type(default),
                default=default,
                args=list(args),
                prog=prog,
                description="Any field of the experiment:",
                config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(one_line(screen.getvalue())) from None


def one_line(panel: str) -> str:
    """The message of one of tyro's panels: what follows its title, up to a rule, and the option it suggests."""
    lines = [line.strip(" │|") for line in panel.splitlines()]
    # The first line is the title; a line of dashes is a rule, and so is a border.
    ruled = [line if line.strip("-─╭╮╰╯ ") else None for line in lines if line][1:]
    while ruled and ruled[0] is None:
        ruled.pop(0)
    end = ruled.index(None) if None in ruled else len(ruled)
    message = " ".join(line for line in ruled[:end] if line)
    suggested = [line.split()[0] for line in ruled[end:] if line and line.startswith("--")]
    return f"{message} (perhaps {suggested[0]}?)" if "Unrecognized" in message and suggested else message


def train(args: Sequence[str]) -> int:
    """train.py CONFIG [--workdir DIR] [--stage S] [--smoke] [--any.field VALUE]."""
    parser = Parser(
        prog="train.py",
        description="Trains the experiment that a config file describes, or goes on with one that was begun.",
        epilog="Every field of the experiment is an option, too: train.py CONFIG --help lists them with their values.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", help="a .py file with get_config(), or a run's config.json")
    parser.add_argument("--workdir", type=Path, help="the run's folder (default: runs/NAME for configs/NAME.py)")
    parser.add_argument("--stage", choices=("autoencoder", "denoiser", "all"), default="all", help="what to train")
    parser.add_argument("--smoke", action="store_true", help="the same experiment made tiny: about a minute")
    parser.add_argument("-h", "--help", action="store_true", help="this text and, after CONFIG, the fields' help")
    options, rest = parser.parse_known_args(args)
    if options.help:
        parser.print_help()
    if options.config is None:
        if options.help:
            parse_config(["--help"], Config(), "train.py CONFIG")
        raise InputError("config: name a file, such as configs/quickstart.py")
    config = load_config(options.config)
    if options.smoke:
        config = shrink(config)
    config = parse_config(["--help"] if options.help else rest, config, f"train.py {options.config}")

    from ldm_jax.training.loop import Stopped
    from ldm_jax.training.run import Run

    name = Path(options.config).stem
    workdir = options.workdir or (
        Path(options.config).parent if name == "config" else Path("runs") / (f"{name}-smoke" if options.smoke else name)
    )
    run = Run(config, workdir)
    try:
        picture = run.train(options.stage)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 3
    print(f"model: {workdir / 'model'}")
    print(f"samples: {picture}" if options.stage != "autoencoder" else f"reconstructions: {picture}")
    return 0


def sample(args: Sequence[str]) -> int:
    """sample.py MODEL [--label N | --labels N ... | --prompt TEXT ...] [--num N] [--out x.png | x.npz | folder/] ..."""
    parser = Parser(prog="sample.py", description="Draws images from a trained model.", allow_abbrev=False)
    parser.add_argument("model", type=Path, help="a run's folder or its model/")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--label", type=int, help="one class for all images")
    what.add_argument("--labels", type=int, nargs="+", help="classes that share --num equally")
    what.add_argument("--prompt", nargs="+", help="texts, for models that read them")
    parser.add_argument("--num", type=int, help="images in all (default: one a label, at least 16)")
    parser.add_argument("--steps", type=int, help="steps of the sampler (default: the model's)")
    parser.add_argument(
        "--guidance", type=float, help="classifier-free guidance scale, 1 for none (default: the model's)"
    )
    parser.add_argument("--sampler", help="name of the sampler (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="everything random is a function of it")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time; it does not change them")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="x.png (a grid), x.npz or a folder")
    options = parser.parse_args(args)

    import jax

    from ldm_jax.output import check_output, write_output
    from ldm_jax.pipeline import load

    check_output(options.out)
    model = load(options.model)
    labels = [options.label] if options.label is not None else options.labels
    if labels is None and model.num_classes:
        labels = list(range(model.num_classes))
    num = options.num if options.num is not None else max(16, len(labels or options.prompt or ()))
    images = model.sample(
        jax.random.key(options.seed),
        labels=labels,
        prompts=options.prompt,
        num=num,
        steps=options.steps,
        guidance=options.guidance,
        sampler=options.sampler,
        batch_size=options.batch_size,
    )
    drawn = None if labels is None else [labels[i % len(labels)] for i in range(num)]
    print(write_output(options.out, images, drawn, columns=len(labels) if labels and len(labels) > 1 else 8))
    return 0


def convert(args: Sequence[str]) -> int:
    """convert SRC DST: published weights into our folders or back, with a table of every tensor."""
    parser = Parser(prog="ldm-jax convert", description="Converts published weights.", allow_abbrev=False)
    parser.add_argument("src", type=Path, help="a component folder, a pipeline folder or a single file")
    parser.add_argument("dst", type=Path, help="a new or empty folder (or a file, with --layout original)")
    parser.add_argument("--layout", choices=("published", "original"), default="published", help="what to write")
    parser.add_argument("--dtype", help="type of the tensors written (default: each one's own)")
    parser.add_argument("--variant", help="read the files of this variant, such as fp16")
    parser.add_argument("--ignore", nargs="+", default=(), help="patterns of tensors that may be left over or missing")
    parser.add_argument("--heads", type=int, help="attention heads, where a single file does not tell")
    options = parser.parse_args(args)

    from ldm_jax.pretrained.conversion import convert as run_conversion

    if not options.src.exists():
        raise InputError(f"src: {options.src} does not exist")
    run_conversion(**vars(options))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"train": train, "sample": sample, "convert": convert}


def run(command: str, args: Sequence[str]) -> int:
    """Runs one command and turns wrong input into one line and exit code 2."""
    configure()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    try:
        return COMMANDS[command](args)
    except InputError as error:
        print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def main(args: Sequence[str] | None = None) -> int:
    """`python -m ldm_jax COMMAND ...`."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: ldm-jax {{{','.join(COMMANDS)}}} ...\n\nldm-jax COMMAND --help tells more.")
        return 0
    if args[0] not in COMMANDS:
        print(f"ldm-jax: error: command {args[0]!r} must be one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run(args[0], args[1:])
