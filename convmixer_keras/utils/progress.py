"""How far long work is: a bar on a terminal, plain lines anywhere else."""

import shutil
import sys
import time

from tqdm import tqdm

LOG_SECONDS = 10


def shown(items, what, total=None, unit="", amount=lambda item: 1):
    """Yields the items and shows on standard output how many of them are done.

    On a terminal that is a bar. In a file or a pipe, which tqdm would fill with carriage returns, it is a
    line every ten seconds and one at the end. An item counts as done when the next one is asked for.

    Args:
        what: What is being done, such as "calibrating".
        total: How much there will be, in `unit`; None takes `len(items)`, where there is one.
        unit: What is counted: "images", "MB".
        amount: Function from an item to how much it is, in `unit`.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    show = _with_bar if sys.stdout.isatty() else _with_lines
    return show(items, what, total, unit, amount)


def shown_if_slow(items, what, unit):
    """Yields the items of a list; a line every ten seconds says how many are done, and none before."""
    return _with_lines(items, what, len(items), unit, lambda item: 1, ends=False)


def keras_verbosity():
    """Returns Keras' `verbose` for this output: a bar on a terminal (1), lines elsewhere (2)."""
    return 1 if sys.stdout.isatty() else 2


def bar(what, total, unit, **options):
    """Returns a `tqdm` bar on standard output."""
    # A terminal without a size reports 0 columns and rows, for which tqdm draws nothing.
    columns, rows = shutil.get_terminal_size()
    place = {"file": sys.stdout, "ncols": columns, "nrows": rows}
    return tqdm(desc=what, total=total, unit=f" {unit}", **place, **options)


def _with_bar(items, what, total, unit, amount):
    with bar(what, total, unit) as shown:
        for item in items:
            yield item
            shown.update(amount(item))


def _with_lines(items, what, total, unit, amount, ends=True):
    share = "" if total is None else f" of {_number(total)}"
    done, next_time = 0, time.monotonic() + LOG_SECONDS

    def write():
        print(f"{what}: {_number(done)}{share} {unit}".rstrip(), flush=True)

    try:
        for item in items:
            yield item
            done += amount(item)
            if time.monotonic() >= next_time:
                next_time = time.monotonic() + LOG_SECONDS
                write()
    finally:
        if ends:
            write()  # Also where the work breaks off.


def _number(value):
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"
