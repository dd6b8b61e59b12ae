"""The errors that a command turns into one line and an exit code of its own."""

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
