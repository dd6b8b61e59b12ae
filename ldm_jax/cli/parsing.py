"""From typed words to values: one parser for all commands, one for the fields of an experiment."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.config import Config


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are InputErrors: one line, like everyone else's.

    Every command takes --debug, which `cli.run` has already taken out of the arguments when they come here.
    """

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)
        self._bounds: dict[str, tuple[int | None, int | None]] = {}
        self.add_argument("--debug", action="store_true", help="show the traceback of whatever goes wrong")

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def number(
        self, flag: str, kind: type, *, least: int | None = None, most: int | None = None, **settings: Any
    ) -> None:
        """An option that takes a finite number (with nargs, several), between `least` and `most`."""
        action = self.add_argument(flag, type=kind, **settings)
        self._bounds[action.dest] = least, most

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it, with every number checked."""
        options, rest = super().parse_known_args(args, namespace)
        for name, (least, most) in self._bounds.items():
            value = getattr(options, name)
            for number in value if isinstance(value, list | tuple) else (value,):
                if number is not None:
                    check_number(name, number, least, most)
        return options, rest


def check_number(name: str, number: int | float, least: int | None = None, most: int | None = None) -> None:
    """InputError unless a number is finite and between its bounds."""
    if isinstance(number, float) and not math.isfinite(number):
        raise InputError(f"{name}: {number} must be a finite number")
    if least is not None and number < least:
        raise InputError(f"{name}: {number} must be at least {least}")
    if most is not None and number > most:
        raise InputError(f"{name}: {number} must be at most {most}")


def parse_config(args: Sequence[str], default: Config, prog: str) -> Config:
    """The experiment `default` with the dotted fields in args put over it, by tyro; InputError in one line."""
    import tyro

    from ldm_jax.configfile import check_numbers

    screen = io.StringIO()
    try:
        with contextlib.redirect_stderr(screen):
            config = tyro.cli(
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
    check_numbers(config)
    return config


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
