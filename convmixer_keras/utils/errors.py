"""This package's exceptions. The commands print them as one line."""


class InputError(ValueError):
    """Something that the user passed is wrong; the message says what, and what is allowed. Exit code 2."""


class Failure(RuntimeError):
    """The work itself failed; the message says at what, and how to go on. Exit code 1."""


def first_line(error):
    """Returns the first line of an exception's message, or its type's name where that is empty."""
    return next(iter(str(error).splitlines()), type(error).__name__)
