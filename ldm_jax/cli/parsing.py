"""From typed words to values: one parser for all commands, one for the fields of an experiment."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from typing import NoReturn

from ldm_jax.config import Config
from ldm_jax.errors import InputError


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
