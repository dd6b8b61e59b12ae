"""From typed words to values: one parser for all commands, one for the fields of an experiment."""

from __future__ import annotations

import argparse
import math
import textwrap
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ldm_jax.errors import InputError
from ldm_jax.serialization import Option, kinds_of, options_of, suggest, with_options

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
        """Raises InputError with argparse's words."""
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


def parse_config(args: Sequence[str], default: Config) -> Config:
    """The experiment `default` with the dotted options in args put over it; InputError in one line."""
    from ldm_jax.configfile import check_numbers
    from ldm_jax.migration import renewed_options

    given: list[tuple[str, list[str]]] = []
    for word in args:
        # A negative number is a value; options start with two hyphens.
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            given.append((name, [value] if equals else []))
        elif not given:
            raise InputError(f"Unrecognized argument {word!r}; options begin with --")
        else:
            given[-1][1].append(word)
    try:
        config = with_options(default, renewed_options(given))
        check_numbers(config)
        return config
    except InputError as error:
        raise suggest(error, default) from error


def help_text(config: Config, section: str | None = None) -> str:
    """The experiment's options by section, each with its value and what it is; of one section where that is named."""
    groups: dict[str, list[Option]] = {}
    for option in options_of(config):
        parts = option.name.split(".")
        depth = 2 if parts[0] in ("stages", "conditions") else 1
        group = ".".join(parts[: min(depth, len(parts) - 1)]) or "experiment"
        groups.setdefault(group, []).append(option)
    if section is not None:
        wanted = section.strip("-").replace("-", "_")
        found = {name: options for name, options in groups.items() if wanted in (name, *name.split("."))}
        if not found:
            raise InputError(f"help: {section!r} must be one of {', '.join(groups)}")
        return "\n".join(line for name, options in found.items() for line in _section(name, options, True))
    lines = [line for name, options in groups.items() for line in _section(name, options, False)]
    return "\n".join([*lines, "", *SHORT, "", "train.py CONFIG --help SECTION tells more of one section."])


SHORT = (
    "short for several:",
    "  --autoencoder-from PATH, --denoiser-from PATH",
    "      Begins with that part of a model: a run's, a pipeline's, the part's own folder, hf:ORG/NAME.",
    "  --autoencoder-trains all|decoder|nothing",
    "      How much of the autoencoder is trained on.",
)
"""Options that stand for more than one field, see `ldm_jax.migration`."""


def _section(name: str, options: Sequence[Option], long: bool) -> list[str]:
    lines = ["", f"{name}:"]
    for option in options:
        value = " ".join(map(str, option.value)) if isinstance(option.value, tuple) else option.value
        lines.append(f"  {option.flag} {value if value not in ('', None) else 'none'}")
        text = " ".join(filter(None, [option.doc, _accepted(option.hint) if long else ""]))
        lines += textwrap.wrap(text, 100, initial_indent="      ", subsequent_indent="      ")
    return lines


def _accepted(hint: Any) -> str:
    """What may be given, where that is a choice among few."""
    kinds = [getattr(kind, "label", kind.__name__) for kind in kinds_of(hint)]
    args = typing.get_args(hint)
    nested = [word for arg in args if typing.get_origin(arg) is Literal for word in typing.get_args(arg)]
    words = list(args) if typing.get_origin(hint) is Literal else nested or (kinds if len(kinds) > 1 else [])
    return f"[{', '.join(map(str, words))}]" if words else ""
