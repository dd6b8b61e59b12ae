"""What a published format is: a class name, how its config reads as ours and back, and its name map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from ldm_jax.errors import InputError
from ldm_jax.pretrained.names import Numbers, Table
from ldm_jax.pretrained.tensors import Tensors


class Format(NamedTuple):
    """One published class and the network of ours that runs its weights."""

    name: str
    """`_class_name` in diffusers' config.json, the architecture in transformers'."""
    module: type[nn.Module]
    read: Callable[[Fields, Tensors], Any]
    """Our config from theirs; the tensors are there to look at names and shapes."""
    write: Callable[[Any], dict[str, Any] | None]
    """Their config from ours, or None where our network is none of theirs."""
    table: Callable[[Any], Table]
    """The name map for one of our configs."""
    numbers: Callable[[Any], Numbers]
    """What the name map needs to know of the config."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Older spellings within published names (regular expressions) and what they became."""
    derived: tuple[str, ...] = ()
    """Tensors that files hold beside the parameters and that follow from the config (regular expressions)."""
    stem: str = "diffusion_pytorch_model"
    """Name of the weights' file, without endings."""
    unpublished: Mapping[str, Any] = {"dtype": "float32", "remat": False}
    """Fields of our config that theirs has no key for, and the values that its files stand for."""


class Fields:
    """A published config that is asked for every key: what nobody asked for and isn't off is an error."""

    def __init__(self, record: Mapping[str, Any], where: str) -> None:
        self._record = {key: value for key, value in record.items() if not key.startswith("_")}
        self._asked: set[str] = set()
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, unchecked."""
        self._asked.add(key)
        return self._record.get(key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """A non-negative integer."""
        value = self.get(key, default)
        if type(value) is not int or not 0 <= value < 2**31:
            raise InputError(f"{self.where}.{key}: {value!r} must be a natural number")
        return value

    def number(self, key: str, default: float) -> float:
        """A number."""
        value = self.get(key, default)
        if type(value) not in (int, float):
            raise InputError(f"{self.where}.{key}: {value!r} must be a number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; null is false."""
        value = self.get(key, default)
        if value is not None and type(value) is not bool:
            raise InputError(f"{self.where}.{key}: {value!r} must be true or false")
        return bool(value)

    def integers(self, key: str, default: tuple[int, ...] | int, length: int | None = None) -> tuple[int, ...]:
        """A tuple of natural numbers; a single number stands for `length` equal ones."""
        value = self.get(key, default)
        if type(value) is int and length is not None:
            value = (value,) * length
        items = tuple(value) if isinstance(value, list | tuple) else (-1,)
        fine = all(type(item) is int and 0 <= item < 2**31 for item in items)
        if not fine or (length is not None and len(items) != length):
            raise InputError(f"{self.where}.{key}: {value!r} must be {length or 'some'} natural numbers")
        return items

    def names(self, key: str, default: tuple[str, ...], accepted: tuple[str, ...]) -> tuple[str, ...]:
        """A tuple of strings, each one of those accepted."""
        value = self.get(key, default)
        if not isinstance(value, list | tuple) or not all(item in accepted for item in value):
            raise InputError(f"{self.where}.{key}: {value!r} must hold {', '.join(accepted)} alone")
        return tuple(value)

    def only(self, **accepted: Any) -> None:
        """Keys that may have one value (or one of a tuple), or be absent."""
        for key, values in accepted.items():
            values = values if isinstance(values, tuple) else (values,)
            if key in self._record and self.get(key) not in values:
                raise InputError(
                    f"{self.where}.{key}: {self.get(key)!r} must be {' or '.join(map(repr, values))}; no other is known"
                )
            self._asked.add(key)

    def ignore(self, *keys: str) -> None:
        """Keys that change nothing in the network."""
        self._asked.update(keys)

    def finish(self) -> None:
        """Refuses keys that nobody asked for, unless they say that something is off."""
        for key, value in self._record.items():
            if key not in self._asked and value not in (None, False, [], {}):
                raise InputError(f"{self.where}.{key}: {value!r} is not a setting that this library knows")
