"""Classes by number or by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ldm_jax.errors import InputError


def class_places(names: Sequence[str], known: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """The number of each class of a data set in a model that knows `known`, and the names of the new classes.

    New ones are numbered on from the last known one. Classes are the same where their names are, upper and lower case
    aside; of a name like ImageNet's "tench, Tinca tinca" a part between commas is enough. Data without names call their
    classes by number: these are the model's numbers, unless its classes have such names themselves.
    """
    places: dict[str, int] = {}
    parts: dict[str, list[int]] = {}
    for i, name in enumerate(known):
        places.setdefault(name.casefold(), i)
        for part in name.casefold().split(","):
            parts.setdefault(part.strip(), []).append(i)
    numbered = all(name.isdecimal() for name in names) and not all(name.isdecimal() for name in known)
    found: list[int] = []
    new: list[str] = []
    for name in names:
        key = name.casefold()
        if numbered and int(name) < len(known):
            places[key] = int(name)
        elif key not in places and len(parts.get(key, ())) == 1:
            places[key] = parts[key][0]
        elif key not in places:
            places[key] = len(known) + len(new)
            new.append(name)
        found.append(places[key])
    return found, tuple(new)


def class_number(label: int | str, num_classes: int, names: Sequence[str]) -> int:
    """The number of a class, from 0, told by its number or its name.

    Upper and lower case don't matter, and of a name like ImageNet's "tench, Tinca tinca" a part between commas is
    enough. Digits are always a number, also where classes have digits for names.

    Raises:
      InputError: there is no such class, or several have the name.
    """
    text = str(label).strip()
    if text.lstrip("+-").isdecimal():
        number = int(text)
        if not 0 <= number < num_classes:
            raise InputError(f"label: {number} must be between 0 and {num_classes - 1}")
        return number
    known = [name.casefold() for name in names[:num_classes]]
    wanted = text.casefold()
    found = [i for i, name in enumerate(known) if name == wanted]
    found = found or [i for i, name in enumerate(known) if wanted in (part.strip() for part in name.split(","))]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"label: {text!r} is the name of classes {', '.join(map(str, found))}; give the number")
    if not names:
        raise InputError(f"label: {text!r} must be between 0 and {num_classes - 1}; this model's classes have no names")
    near = difflib.get_close_matches(wanted, known, 1)
    perhaps = f" (perhaps {names[known.index(near[0])]!r}?)" if near else ""
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise InputError(f"label: {text!r}{perhaps} must be between 0 and {num_classes - 1}, or one of {shown}")
