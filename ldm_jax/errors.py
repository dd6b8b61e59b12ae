"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """Something that a user typed or a file that a user named is wrong.

    The message is one line: the field, the value, what is accepted. The commands print it to stderr and exit with 2.
    """
