"""How far long work is: a bar on a terminal, plain lines anywhere else."""

import shutil
import sys
import time

BAR_WIDTH = 30
REDRAW_SECONDS = 0.1
LOG_SECONDS = 10


def shown(items, what, total=None, unit="", amount=lambda item: 1):
    """Yields the items, and says on standard output how many of them are done.

    On a terminal one line is written over again and again. In a file or a pipe there is a line every ten
    seconds, and one at the end. An item counts as done when the next one is asked for.

    Args:
        items: Iterable of anything.
        what: What is being done, such as "calibrating".
        total: How much there will be, in `unit`; None takes `len(items)`, where there is one.
        unit: What is counted: "images", "MB".
        amount: Function from an item to how much it is, in `unit`.

    Yields:
        The items.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    stream, done = sys.stdout, 0
    terminal = stream.isatty()
    # Shown at once on a terminal, so that nobody waits before an empty line.
    next_time = 0 if terminal else time.monotonic() + LOG_SECONDS
    if terminal:
        stream.write(_line(what, done, total, unit, bar=True))
        stream.flush()
    try:
        for item in items:
            yield item
            done += amount(item)
            if time.monotonic() >= next_time:
                next_time = time.monotonic() + (REDRAW_SECONDS if terminal else LOG_SECONDS)
                stream.write(_line(what, done, total, unit, bar=terminal))
                stream.flush()
    finally:
        # Also where the work breaks off, so that what is printed next has a line of its own.
        stream.write(_line(what, done, total, unit, bar=terminal) + "\n" * terminal)
        stream.flush()


def keras_verbosity():
    """Returns the `verbose` of Keras' own loops: a bar on a terminal (1), a line for each epoch (2)."""
    return 1 if sys.stdout.isatty() else 2


def _line(what, done, total, unit, bar):
    share = "" if total is None else f" of {_number(total)}"
    text = f"{_number(done)}{share} {unit}".rstrip()
    if not bar:
        return f"{what}: {text}\n"
    # A line that the terminal breaks in two could not be written over.
    width = min(BAR_WIDTH, shutil.get_terminal_size().columns - len(f"{what} [] {text}") - 1)
    if not total or width < 1:
        return f"\r{what} {text}"
    filled = min(width, int(width * done / total))
    return f"\r{what} [{'=' * filled}{' ' * (width - filled)}] {text}"


def _number(value):
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"
