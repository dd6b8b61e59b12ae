"""The commands. `cli.command` tells the exit codes; each command NAME is the function NAME of the module cli/NAME.py.

Here belongs how what a user types becomes calls of the library, and how results and errors are shown. What a command
does is in experiment/, pipeline/, evaluation/ and pretrained/.

Nothing heavy is imported before a command runs, so that Ctrl-C, `--version` and `--help` are answered at once.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Sequence

from ldm_jax.cli.command import CLOSED_PIPE, DONE, WRONG_INPUT, guarded, without_echoes

COMMANDS: dict[str, str] = {
    "train": "an experiment, from its config to the saved model",
    "finetune": "a model trained on with other data: whole, by LoRA, or a new word",
    "sample": "draw images from a trained model",
    "evaluate": "measure a model or samples against a reference",
    "classify": "the class of images, by the denoiser's own errors",
    "augment": "a labelled set of drawn images, as many of each class",
    "convert": "published weights into our folders or back",
    "average": "a run's model with an average of its weights of another length",
    "push": "a model to the Hugging Face Hub, with a model card",
    "demo": "a page in the browser where a model is tried",
    "plan": "what training would take, here or on TPUs that aren't here",
    "batch": "the examples that a training step saw, as a picture",
    "plot": "what runs logged while they trained, as a picture",
    "inspect": "what a model, a run or a file of weights holds",
}
"""Every command and what it is for."""


def run(command: str, args: Sequence[str]) -> int:
    """Runs one command; the exit code says how it ended, and --debug shows the traceback of whatever went wrong."""
    args = list(args)
    # For every command, and before any parser sees it: a config file may fail before all options are known.
    debug = "--debug" in args
    # Before `guarded`, which hushes repeated warnings in the handlers that are there.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ldm_jax").setLevel(logging.INFO)
    if not debug:
        without_echoes()
    closed = DONE if {"-h", "--help"} & set(args) else CLOSED_PIPE
    return guarded(command, lambda: _run(command, [arg for arg in args if arg != "--debug"]), debug, closed)


def _run(command: str, args: Sequence[str]) -> int:
    from ldm_jax.runtime import configure

    configure()
    return getattr(importlib.import_module(f"ldm_jax.cli.{command}"), command)(args)


def main(args: Sequence[str] | None = None) -> int:
    """`ldm-jax COMMAND ...`, which is `python -m ldm_jax COMMAND ...`."""
    args = sys.argv[1:] if args is None else args
    if args and args[0] in COMMANDS:
        return run(args[0], args[1:])
    return guarded("ldm-jax", lambda: _main(args), closed=DONE)


def _main(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items())
        names, more = ",".join(COMMANDS), "ldm-jax COMMAND --help tells more, ldm-jax --version which this is."
        print(f"usage: ldm-jax {{{names}}} ...\n\n{lines}\n\n{more}")
        return DONE
    if args[0] == "--version":
        print(f"ldm-jax {version()}")
        return DONE
    print(f"ldm-jax: error: command {args[0]!r} must be one of {', '.join(COMMANDS)}", file=sys.stderr)
    return WRONG_INPUT


def version() -> str:
    """Of the installed package; "unknown" where it runs from a clone that isn't installed."""
    try:
        return importlib.metadata.version("ldm-jax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
