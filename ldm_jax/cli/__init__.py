"""The commands. Exit codes: 0 done, 2 wrong input, 3 stopped by a signal after saving, 1 a bug."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from ldm_jax.cli.convert import convert
from ldm_jax.cli.evaluate import evaluate
from ldm_jax.cli.sample import sample
from ldm_jax.cli.train import train
from ldm_jax.errors import InputError
from ldm_jax.runtime import configure

log = logging.getLogger("ldm_jax")

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "convert": convert,
}


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
