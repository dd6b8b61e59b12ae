"""The errors that a command turns into one line and an exit code of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

SAVED = "saved: "
"""What a note begins with that tells, beside an error of the machine's, what is whole on disk (`error.add_note`)."""


class InputError(ValueError):
    """Something that a user typed or a file that a user named is wrong.

    The message is one line: the field, the value, what is accepted. The commands print it to stderr and exit with 2.
    """


class Stopped(Exception):
    """A signal asked a run to end; everything is saved. Exit code 3."""


class Diverged(FloatingPointError):
    """Training gave NaN or infinity; the last good checkpoint is kept. Exit code 4."""


@contextmanager
def told_as(field: str) -> Iterator[None]:
    """Within it an InputError about a model's file is one about `field`, as what the file was given for."""
    try:
        yield
    except InputError as error:
        if not str(error).startswith("model: "):
            raise
        raise InputError(f"{field}: {str(error).removeprefix('model: ')}") from error
