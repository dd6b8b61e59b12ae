"""Classes by number or by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ldm_jax.errors import InputError


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
