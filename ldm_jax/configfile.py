"""Config files: a Python file with get_config(), or a JSON file."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ldm_jax.config import Config
from ldm_jax.errors import InputError


def load_config(path: str | Path) -> Config:
    """The config of a Python file (its `get_config()`) or of a JSON file such as runs/NAME/config.json.

    "FILE.py:NAME" calls get_config("NAME"), for files that describe a family.
    """
    file, colon, variant = str(path).rpartition(".py:")
    path = Path(f"{file}.py" if colon else path)
    if not path.is_file():
        raise InputError(f"config: {path} is not a file; name a .py with get_config() or a .json")
    if path.suffix == ".json":
        return Config.from_json(path.read_text())
    if path.suffix != ".py":
        raise InputError(f"config: {path} must end in .py or .json")
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_text(), str(path), "exec"), namespace)
    except SyntaxError as error:
        raise InputError(f"config: {path} line {error.lineno} is not Python ({error.msg})") from error
    if not callable(namespace.get("get_config")):
        raise InputError(f"config: {path} defines no get_config()")
    try:
        config = namespace["get_config"](*([variant] if colon else []))
    except TypeError as error:
        if not colon or inspect.signature(namespace["get_config"]).parameters:
            raise
        raise InputError(f"config: {path} describes one experiment, not {variant!r}") from error
    if not isinstance(config, Config):
        raise InputError(f"config: get_config() of {path} gives {type(config).__name__}, not ldm_jax.Config")
    return config
