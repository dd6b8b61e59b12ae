"""The user's own file that describes an experiment: Python or JSON, run and checked."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.config import Config
from ldm_jax.errors import InputError
from ldm_jax.seeds import check_seed


def load_config(path: str | Path) -> Config:
    """The config of a Python file (its `get_config()`), of a JSON file such as runs/NAME/config.json, or of its name.

    "FILE.py:NAME" calls get_config("NAME"), for files that describe a family. "quickstart" is the config of that name
    that comes with the package, "ldm_autoencoder:kl-f8" one of a family.

    Raises:
      InputError: the file is missing, is no Python or JSON, raises an error while it runs (in one line: the file's line
        and what is accepted; the error itself is the cause), or gives something else than a Config that can be trained.
    """
    file, colon, variant = str(_shipped(str(path)) or path).rpartition(".py:")
    path = Path(f"{file}.py" if colon else f"{file}{variant}")
    if not path.is_file():
        ours = ", ".join(sorted(p.stem for p in shipped_folder().glob("*.py")))
        raise InputError(f"config: {path} is not a file; name a .py with get_config(), a .json, or one of {ours}")
    if path.suffix not in (".py", ".json"):
        raise InputError(f"config: {path} must end in .py or .json")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config: {path} can't be read ({error})") from error
    config = Config.from_json(text) if path.suffix == ".json" else _run(path, text, variant if colon else None)
    check_numbers(config)
    return config


def shipped_folder() -> Path:
    """Where the configs lie that come with the package: within it, or beside it in a clone."""
    package = Path(__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def _shipped(name: str) -> str | None:
    """The file of a shipped config that is called by its name; None where the user has a file of that name."""
    stem, colon, variant = name.partition(":")
    file = shipped_folder() / f"{stem}.py"
    if not stem.isidentifier() or Path(name).exists() or not file.is_file():
        return None
    return f"{file}{colon}{variant}"


def check_numbers(config: Any, prefix: str = "") -> None:
    """InputError where a number anywhere in a tree of dataclasses is NaN or infinite, or a seed out of range."""
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item):
                check_numbers(item, f"{name}.")
            if isinstance(item, float) and not math.isfinite(item):
                raise InputError(f"{name}: {item} must be a finite number")
            if isinstance(item, int) and name == "seed":
                check_seed(item)


def _run(path: Path, text: str, variant: str | None) -> Config:
    # A module like any other, so that a config may define dataclasses; under a name that no other module has.
    module = types.ModuleType(f"_ldm_jax_config_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    namespace = module.__dict__
    try:
        code = compile(text, str(path), "exec")
    except SyntaxError as error:
        raise InputError(f"config: {path} line {error.lineno} is not Python ({error.msg})") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"config: {path} is not Python ({error})") from error

    def told(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (Exception, SystemExit) as error:
            raise InputError(f"config: {path}{_line_in(error, path)}: {_told(error, namespace)}") from error

    told(lambda: exec(code, namespace))
    get_config = namespace.get("get_config")
    if not callable(get_config):
        raise InputError(f"config: {path} defines no get_config()")
    given = [] if variant is None else [variant]
    _check_variant(get_config, path, given)
    config = told(lambda: get_config(*given))
    if not isinstance(config, Config):
        raise InputError(f"config: get_config() of {path} gives {type(config).__name__}, not ldm_jax.Config")
    return config


def _check_variant(get_config: Callable[..., Any], path: Path, given: Sequence[str]) -> None:
    try:
        inspect.signature(get_config).bind(*given)
    except TypeError as error:
        if given:
            raise InputError(f"config: {path} describes one experiment, not {given[0]!r}") from error
        raise InputError(f"config: {path} describes a family; name one of it, as in {path}:NAME") from error


def _line_in(error: BaseException, path: Path) -> str:
    """ " line N", the line of the user's file in which, or in what it called, the error was raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" line {lines[-1]}" if lines else ""


def _told(error: BaseException, namespace: Mapping[str, Any]) -> str:
    """What is wrong, in words: for a field that doesn't exist, those that do."""
    message = " ".join(str(error).split())
    if isinstance(error, InputError):
        return message.removeprefix("config: ")
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    known = _dataclasses(Config) | {n: v for n, v in namespace.items() if dataclasses.is_dataclass(v)}
    if isinstance(error, TypeError) and found is not None and found[1] in known:
        fields = [field.name for field in dataclasses.fields(known[found[1]]) if field.init]
        near = difflib.get_close_matches(found[2], fields, 1)
        perhaps = f" (perhaps {near[0]}?)" if near else ""
        return f"{found[1]} has no field {found[2]!r}{perhaps}; accepted: {', '.join(fields)}"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _dataclasses(kind: Any) -> dict[str, Any]:
    """A dataclass and all that its fields may hold, by name."""
    found = {kind.__name__: kind}
    pending = list(typing.get_type_hints(kind).values())
    while pending:
        hint = pending.pop()
        pending.extend(typing.get_args(hint))
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint.__name__ not in found:
            found[hint.__name__] = hint
            pending.extend(typing.get_type_hints(hint).values())
    return found
