"""Functions as choices of an experiment: a frozen dataclass whose fields are a function's options.

So a sampler, a grid or an optimiser is chosen by name and set field by field, in files and on the command line, and its
signature stays the one place where its options are written down.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

PLAIN = (bool, int, float, str)


def _is_plain(hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return all(_is_plain(arg) for arg in args if arg is not Ellipsis)
    if origin is Literal or hint in PLAIN:
        return True
    # A number that may be left out.
    return len(args) == 2 and type(None) in args and any(arg in PLAIN for arg in args)


def _option_text(doc: str, name: str) -> str:
    """What a docstring says of an option: "name: text" up to the sentence's end."""
    found = re.search(rf"\b{re.escape(name)}: (.+?)(?:\.(?:\s|$)|$)", " ".join(doc.split()))
    return f"{found[1][0].upper()}{found[1][1:]}." if found else ""


def camel(name: str) -> str:
    """euler_ancestral to EulerAncestral."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def choice(label: str, function: Callable[..., Any], without: Sequence[str] = (), **methods: Any) -> type:
    """A frozen dataclass for `function`'s options but those in `without`, which its user fills in.

    methods: of the class; `options(self)` gives the keywords, `function` is the function itself. Options that are no
    plain values are left at their defaults.
    """
    doc, hints = inspect.getdoc(function) or "", _annotations(function)
    fields = []
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name, Any)
        if name in without or parameter.default is parameter.empty or not _is_plain(hint):
            continue
        text = {"doc": _option_text(doc, name)}
        fields.append((name, hint, dataclasses.field(default=parameter.default, metadata=text)))
    names = tuple(name for name, _, _ in fields)

    def options(self: Any) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    summary = doc.split("\n\n")[0].replace("\n", " ")
    body = {
        "label": label,
        "options": options,
        "function": staticmethod(function),
        "__doc__": summary,
        "__module__": function.__module__,
        **methods,
    }
    return dataclasses.make_dataclass(camel(label), fields, namespace=body, frozen=True)


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of plain options; those that can't be evaluated (array shapes) are left out."""
    namespace = vars(inspect.getmodule(function))
    found = {}
    for name, text in inspect.get_annotations(inspect.unwrap(function)).items():
        try:
            found[name] = eval(text, dict(namespace)) if isinstance(text, str) else text
        except (NameError, SyntaxError, TypeError, AttributeError):
            continue
    return found
