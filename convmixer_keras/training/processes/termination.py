"""A run ends between two steps: at SIGTERM, sent by Slurm and Kubernetes before they kill, and at Ctrl-C."""

import contextlib
import gc
import signal
import threading
import traceback

from convmixer_keras.utils.errors import Failure


class Terminated(Failure):
    """The run was asked to end, by a SIGTERM to any of its processes or a Ctrl-C in another one."""


class Asked:
    """Which signal has asked this process to end, if any: `signal.SIGTERM`, `signal.SIGINT` or None."""

    signal = None

    def check(self):
        """Raises what the signal asks for, where nothing has been kept yet."""
        if self.signal:
            raise ended_early(KeyboardInterrupt if self.signal == signal.SIGINT else Terminated)


def ended_early(kind=Terminated):
    """Returns the error of a run that has kept nothing yet."""
    ended = kind("ended before the first step")
    ended.resumable = False
    return ended


@contextlib.contextmanager
def noted():
    """Within this block, SIGTERM and Ctrl-C are only noted, in the `Asked` that it yields.

    An exception out of the blue could be swallowed by library code that happens to run: JAX, which Keras
    imports where it is installed, does so in a hook of the garbage collector. A second Ctrl-C does what the
    first would have done before this block.
    """
    asked = Asked()

    def note(number, _):
        asked.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    if threading.current_thread() is not threading.main_thread():  # Python hears signals in that one alone.
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if before[signal.SIGINT] == signal.SIG_IGN:  # As a shell starts what runs in the background.
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def inputs_let_go():
    """Lets go of what the block used, so that no iterator of tf.data lives until the interpreter ends.

    There it would wait for ever: its threads decode images with Python functions, which an interpreter that
    is ending no longer runs. The frames of an error hold iterators, and an error that nobody catches is kept.
    """
    try:
        yield
    except BaseException as error:
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        raise
    finally:
        gc.collect()
