"""Dataclasses and unions of them as JSON: one parser for config files, saved models and the command line.

A union's value is an object with "type", the class's name ("DiTConfig"; "dit" and "di_t" are understood, too), or that
name alone for the class's defaults. Nothing here knows what the dataclasses are about.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import math
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ldm_jax.errors import InputError

Tree = dict[str, Any]


def key_of(name: str) -> str:
    """The spelling that two names of one class share: lower case, without underscores, hyphens or "Config"."""
    return name.lower().replace("_", "").replace("-", "").removesuffix("config")


def kinds_of(hint: Any) -> tuple[type, ...]:
    """The dataclasses that a field may hold, in order; () for a field of another kind."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return (hint,)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for arg in typing.get_args(hint) for kind in kinds_of(arg))
    return ()


def item_of(hint: Any) -> Any:
    """What `tuple[item, ...]` holds many of, or None."""
    args = typing.get_args(hint)
    return args[0] if typing.get_origin(hint) is tuple and len(args) == 2 and args[1] is Ellipsis else None


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """The evaluated type of each field that a caller may set."""
    hints = typing.get_type_hints(cls)
    # A field that takes any of a protocol's classes may name those that can be written down.
    return {f.name: f.metadata.get("hint", hints[f.name]) for f in dataclasses.fields(cls) if f.init}


def to_tree(value: Any, hint: Any = None) -> Any:
    """A dataclass as nested dicts, lists and plain values; a union's members carry their "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {name: to_tree(getattr(value, name), kind) for name, kind in hints_of(type(value)).items()}
        return {"type": type(value).__name__, **fields} if len(kinds_of(hint)) > 1 else fields
    if isinstance(value, tuple | list):
        return [to_tree(item, item_of(hint)) for item in value]
    return value


def from_tree(cls: type, tree: Any, path: str = "") -> Any:
    """The dataclass `cls` from nested dicts; InputError names the dotted field and what is accepted."""
    if not isinstance(tree, Mapping):
        raise InputError(f"{path.rstrip('.') or cls.__name__}: {tree!r} must be an object of fields")
    hints = hints_of(cls)
    for name in tree:
        if name not in hints:
            written = name if name.isprintable() and name else repr(name)
            raise InputError(f"{path}{written}: unknown field; accepted: {', '.join(hints)}")
    missing = [field.name for field in dataclasses.fields(cls) if _required(field) and field.name not in tree]
    if missing:
        raise InputError(f"{path}{missing[0]}: it must be given")
    return cls(**{name: convert(hints[name], value, f"{path}{name}") for name, value in tree.items()})


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def _keys_of(kind: type) -> tuple[str, ...]:
    """The spellings that a class answers to: its name's, and that of its `label`, where it has one."""
    label = getattr(kind, "label", None)
    return (key_of(kind.__name__), key_of(label)) if isinstance(label, str) else (key_of(kind.__name__),)


def kind_named(kinds: Sequence[type], name: Any, path: str) -> type:
    """The one of `kinds` that is called so."""
    found = [kind for kind in kinds if isinstance(name, str) and key_of(name) in _keys_of(kind)]
    if not found:
        raise InputError(
            f"{path}: {name!r} must be one of {', '.join(getattr(kind, 'label', kind.__name__) for kind in kinds)}"
        )
    return found[0]


def convert(hint: Any, value: Any, path: str) -> Any:
    """A JSON value as the field's type; InputError where it is none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    kinds = kinds_of(hint)
    if value is None and type(None) in args:
        return None
    words = [word for arg in args if typing.get_origin(arg) is Literal for word in typing.get_args(arg)]
    if words and not isinstance(value, Mapping):
        if value not in words:
            raise InputError(f"{path}: {value!r} must be one of {', '.join(map(repr, words))}")
        return value
    if kinds and isinstance(value, str):
        return from_tree(kind_named(kinds, value, path), {}, f"{path}.")
    if len(kinds) > 1 and isinstance(value, Mapping):
        kind = kind_named(kinds, value.get("type", kinds[0].__name__), f"{path}.type")
        return from_tree(kind, {k: v for k, v in value.items() if k != "type"}, f"{path}.")
    if kinds:
        return from_tree(kinds[0], value, f"{path}.")
    if origin in (typing.Union, types.UnionType):
        return convert(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{path}: {value!r} must be one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        each = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(each) == len(value):
            names = [path if not kinds_of(kind) else f"{path}.{i}" for i, kind in enumerate(each)]
            return tuple(convert(kind, item, name) for kind, item, name in zip(each, value, names, strict=True))
    return _plain(hint, value, path)


def _plain(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}: {value} must be a finite number")
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{path}: {value!r} must be {getattr(hint, '__name__', hint)}")


def parse_json(text: str, path: str = "config") -> Any:
    """The JSON value of a text; InputError where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error})") from error


# ---- the command line ----------------------------------------------------------------------------------------------


class Option(typing.NamedTuple):
    """A field of an experiment as a person may set it."""

    name: str
    """Dotted, as in JSON: "data.image_size"."""
    hint: Any
    value: Any
    doc: str

    @property
    def flag(self) -> str:
        return _flag(self.name)


def options_of(value: Any, prefix: str = "") -> Iterator[Option]:
    """Every field of a dataclass and of those within it, in order; a tuple's members are named by their kind."""
    docs = docs_of(type(value))
    for name, kind in hints_of(type(value)).items():
        inner, path = getattr(value, name), f"{prefix}{name}"
        item = item_of(kind)
        if item is not None and kinds_of(item):
            for member in inner:
                yield from options_of(member, f"{path}.{_member_name(member)}.")
        elif kinds_of(kind) and dataclasses.is_dataclass(inner):
            if len(kinds_of(kind)) > 1:
                yield Option(path, kind, type(inner).__name__, docs.get(name, ""))
            yield from options_of(inner, f"{path}.")
        else:
            yield Option(path, kind, inner, docs.get(name, ""))


def _member_name(member: Any) -> str:
    return getattr(type(member), "label", type(member).__name__)


def with_options(value: Any, given: Sequence[tuple[str, Sequence[str]]]) -> Any:
    """The dataclass with options (dotted name, words typed) set; a kind is changed before its fields are.

    Changing the kind of a section keeps the fields that both kinds have. All are set before anything is checked, so
    that two options may only be right together.
    """
    tree = to_tree(value)
    for name, words in sorted(given, key=lambda pair: pair[0].count(".")):
        _set(tree, type(value), name.replace("-", "_"), words, name)
    return from_tree(type(value), tree)


def _kind_of(tree: Any, kinds: Sequence[type]) -> type:
    return kind_named(kinds, tree["type"], "type") if "type" in tree else kinds[0]


def _set(tree: Tree, cls: type, name: str, words: Sequence[str], whole: str) -> None:
    head, _, rest = name.partition(".")
    hints = hints_of(cls)
    if head not in hints:
        raise _Unknown(whole)
    hint = hints[head]
    item, kinds = item_of(hint), kinds_of(hint)
    literal = any(typing.get_origin(arg) is Literal for arg in typing.get_args(hint))
    if item is not None and kinds_of(item):
        _set_member(tree, head, kinds_of(item), rest, words, whole)
    elif rest:
        if not kinds:
            raise _Unknown(whole)
        below = tree[head] if isinstance(tree[head], dict) else to_tree(kinds[0](), hint)
        _set(below, _kind_of(below, kinds), rest, words, whole)
        tree[head] = below
    elif kinds and not literal:
        optional = type(None) in typing.get_args(hint)
        tree[head] = None if list(words) == ["none"] and optional else _switched(kinds, tree[head], words, whole)
    else:
        tree[head] = _typed(hint, words, whole)


def _set_member(tree: Tree, head: str, kinds: Sequence[type], rest: str, words: Sequence[str], whole: str) -> None:
    """Sets a field of one of several members, or which kinds of members there are."""
    members: list[Tree] = tree[head]
    each = [_kind_of(member, kinds) for member in members]
    if not rest:
        chosen = [kind_named(kinds, word, _flag(whole)) for word in words if word != "none"]
        kept = dict(zip(each, members, strict=True))
        tree[head] = [kept.get(kind) or {"type": kind.__name__, **to_tree(kind())} for kind in chosen]
        return
    member, _, below = rest.partition(".")
    found = [i for i, kind in enumerate(each) if key_of(member) in _keys_of(kind)]
    if not found:
        names = ", ".join(_keys_of(kind)[-1] for kind in each)
        raise InputError(f"{head}.{member}: not there; it has {names or 'none'}")
    if not below:
        raise _Unknown(whole)
    _set(members[found[0]], each[found[0]], below, words, whole)


def _switched(kinds: Sequence[type], old: Any, words: Sequence[str], whole: str) -> Any:
    """The section's tree as another kind, with the fields that both have."""
    kind = kind_named(kinds, _one(words, whole), _flag(whole))
    before = _kind_of(old, kinds) if isinstance(old, dict) else None
    if before is kind:
        return old
    known = {} if before is None else hints_of(before)
    same = {name: old[name] for name, hint in hints_of(kind).items() if known.get(name) == hint}
    return {"type": kind.__name__, **same}


class _Unknown(InputError):
    """An option that no field has; `suggest` says which one may have been meant."""

    def __init__(self, name: str):
        super().__init__(f"Unrecognized option --{name}")
        self.name = name


def suggest(error: InputError, value: Any) -> InputError:
    """The same error with the nearest option's name, where it is about an unknown one."""
    if not isinstance(error, _Unknown):
        return error
    flags = [option.flag for option in options_of(value)]
    near = difflib.get_close_matches(_flag(error.name), flags, 1, 0.6)
    return InputError(f"{error}" + (f" (perhaps {near[0]}?)" if near else "; --help lists them"))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one(words: Sequence[str], name: str) -> str:
    if len(words) != 1:
        raise InputError(f"{_flag(name)}: expected one value" + (f", not {len(words)}" if words else ""))
    return words[0]


def _typed(hint: Any, words: Sequence[str], name: str) -> Any:
    """Words as the JSON value that `convert` takes; InputError that names the option where they are none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        parts = words[0].split(",") if len(words) == 1 and "," in words[0] else list(words)
        kinds = [args[0]] * len(parts) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(parts):
            raise InputError(f"{_flag(name)}: {' '.join(words)!r} must be {len(kinds)} values")
        return [_typed(kind, [part], name) for kind, part in zip(kinds, parts, strict=True)]
    word = _one(words, name)
    if origin in (typing.Union, types.UnionType):
        if word == "none":
            return None
        return _typed(next(arg for arg in args if arg is not type(None)), words, name)
    if hint is bool:
        if word.lower() not in ("true", "false"):
            raise InputError(f"{_flag(name)}: {word!r} must be True or False")
        return word.lower() == "true"
    if hint in (int, float):
        try:
            return hint(word)
        except ValueError:
            what = "a whole number" if hint is int else "a number"
            raise InputError(f"{_flag(name)}: {word!r} must be {what}") from None
    return word


@functools.cache
def docs_of(cls: type) -> dict[str, str]:
    """The text under each field, as the source has it, those of its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        docs |= {field.name: field.metadata["doc"] for field in dataclasses.fields(base) if "doc" in field.metadata}
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # made at run time
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                docs[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return docs
