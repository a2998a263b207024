"""This package's exceptions, and how their messages call arguments. The commands print them as one line."""

_flags = {}  # From the name of an argument to its flag, where a command runs.


class InputError(ValueError):
    """Something that the user passed is wrong; the message says what, and what is allowed. Exit code 2.

    Args:
        message: One line.
        details: Further lines, such as one for each of several files.
    """

    def __init__(self, message, details=()):
        self.lines = [message, *map(str, details)]
        super().__init__("\n  ".join(map(str, self.lines)))


class Failure(RuntimeError):
    """The work itself failed; the message says at what, and how to go on. Exit code 1."""


def arg(name, value=None):
    """Returns what the user calls an argument: its flag where a command runs that has one, or else its name.

    With a value it is what the user writes: "resume=True", or "--resume".
    """
    flag = _flags.get(name)
    if flag is None:
        return name if value is None else f"{name}={value!r}"
    return flag if value is None or isinstance(value, bool) else f"{flag} {value}"


def call_by(flags):
    """Lets messages call arguments by these flags, a dictionary from names; returns those before."""
    before = dict(_flags)
    _flags.clear()
    _flags.update(flags)
    return before


def first_line(error):
    """Returns the first line of an exception's message, or its type's name where that is empty."""
    return next(iter(str(error).splitlines()), type(error).__name__)
