"""The one exception of this package's own."""


class InputError(ValueError):
    """Something that the user passed is wrong; the message says what, and what is allowed.

    The commands print it as one line and exit with code 2; any other exception is a failure of the work
    itself, or of this package.
    """


def first_line(error):
    """Returns the first line of an exception's message, or its type's name where that is empty."""
    return next(iter(str(error).splitlines()), type(error).__name__)
