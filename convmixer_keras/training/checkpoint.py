"""What a killed run goes on from: one file with weights, the optimizer's state, and how far the run is."""

import os
from typing import NamedTuple

import h5py
import numpy as np

from convmixer_keras.models.saving import weights_size
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import written_whole


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        epochs: Number of finished epochs.
        batches: Number of finished batches of the epoch after those.
        seconds: How long these batches took.
        sums: The state of the metrics after them: sums and counts, a list of numbers.
    """

    epochs: int = 0
    batches: int = 0
    seconds: float = 0.0
    sums: tuple[float, ...] = ()


def write(model, path, progress):
    """Writes a compiled model's weights and optimizer and a `Progress`, whole or not at all."""
    with written_whole(path, room=weights_size(model)) as temporary:
        model.save_weights(temporary)
        # In the same file, so that the two cannot disagree. The optimizer's count of steps would not do:
        # with mixed_float16 it leaves out those whose gradients overflowed.
        with h5py.File(temporary, "a") as file:
            file.attrs.update(progress._asdict())


def restore(model, path):
    """Loads what `write` wrote into a compiled model of the same kind, and returns its `Progress`.

    Where there is no file, that of a run that has not begun.

    Raises:
        InputError: If the file is damaged or of another model.
    """
    if not os.path.exists(path):
        return Progress()
    try:
        model.load_weights(path)
        with h5py.File(path) as file:
            saved = {name: file.attrs[name] for name in Progress._fields}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be resumed from: {first_line(error)}") from None
    return Progress(
        int(saved["epochs"]),
        int(saved["batches"]),
        float(saved["seconds"]),
        tuple(np.asarray(saved["sums"], float)),
    )
