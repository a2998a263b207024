"""Times several programs in turn, each in its own process, so that their thread pools do not interfere."""

import contextlib
import multiprocessing
import statistics
import time


def _serve(make, own_clock, connection):
    step = make()
    step()  # The first call traces or compiles.
    step()
    connection.send("ready")
    while (repeats := connection.recv()) is not None:
        began = time.perf_counter()
        measured = [step() for _ in range(repeats)]
        connection.send((sum(measured) if own_clock else time.perf_counter() - began) / repeats)


def seconds_per_step(contenders, rounds, repeats, own_clock=False):
    """Returns the median time of a step of each contender, in seconds.

    Args:
        contenders: Dictionary from a name to a function without arguments that sets up the contender, in
            its own process, and returns its step: another function without arguments.
        rounds: How many times every contender has its turn.
        repeats: Steps in one turn, whose mean counts.
        own_clock: Whether a step returns the seconds that count, or else its whole time does.
    """
    context = multiprocessing.get_context("spawn")
    workers = {}
    times = {name: [] for name in contenders}
    try:
        for name, make in contenders.items():
            here, there = context.Pipe()
            # No daemon: a contender may start worker processes.
            context.Process(target=_serve, args=(make, own_clock, there)).start()
            workers[name] = here
            there.close()
            here.recv()
        for _ in range(rounds):
            for name, connection in workers.items():
                connection.send(repeats)
                times[name].append(connection.recv())
    finally:
        for connection in workers.values():
            with contextlib.suppress(BrokenPipeError):
                connection.send(None)
    return {name: statistics.median(values) for name, values in times.items()}


def print_images_per_second(seconds, images, reference):
    """Prints images/s of each contender, and how many times the reference that is."""
    width = max(map(len, seconds))
    print(f"{'':<{width}}  images/s  ratio")
    for name, value in seconds.items():
        print(f"{name:<{width}}  {images / value:8.1f}  {seconds[reference] / value:5.2f}")
