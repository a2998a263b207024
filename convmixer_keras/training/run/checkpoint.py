"""What a killed run continues from: one file with weights, the optimizer's state, and how far the run is."""

from typing import NamedTuple

import h5py
import keras
import numpy as np

from convmixer_keras.models.keras_file import check_weights
from convmixer_keras.models.saving import weights_size
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import written_whole

_SCALING = "loss_scaling"  # Of mixed_float16.


class Progress(NamedTuple):
    """How far a run is. `sums` are those and the counts of the metrics after `batches` of the next epoch."""

    epochs: int = 0
    batches: int = 0
    seconds: float = 0.0
    sums: tuple[float, ...] = ()


def write(model, path, progress):
    """Writes a compiled model's weights and optimizer and a `Progress`, whole or not at all.

    By the variables' names and not as Keras saves a model: the twin in training has other layers on a CPU
    than on a GPU, and under another precision, and a run may go on with either.
    """
    with written_whole(path, room=weights_size(model)) as temporary, h5py.File(temporary, "w") as file:
        for name, variable in _variables(model).items():
            file[name] = keras.ops.convert_to_numpy(variable)
        # In the same file, so that the two cannot disagree. The optimizer's count of steps would not do:
        # with mixed_float16 it leaves out those whose gradients overflowed.
        file.attrs.update(progress._asdict())


def _variables(model):
    """Returns a dictionary from a name that every twin of a network has to the variable."""
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    # An optimizer that averages statistics counts the model's own among its variables.
    known = {id(variable) for variable in model.weights}
    state = [variable for variable in inner.variables if id(variable) not in known]
    known |= {id(variable) for variable in inner.variables}
    scaling = [variable for variable in optimizer.variables if id(variable) not in known]
    found = {f"weights/{variable.path}": variable for variable in model.weights}
    for group, variables in (("optimizer", state), (_SCALING, scaling)):
        found |= {f"{group}/{variable.path.partition('/')[2]}": variable for variable in variables}
    if len(found) != len(model.weights) + len(state) + len(scaling):
        raise RuntimeError("two variables have the same name")
    return found


def restore(model, path):
    """Loads what `write` wrote into a compiled model of the same kind, and returns its `Progress`."""
    try:
        check_weights(path)
        with h5py.File(path) as file:
            epochs, batches = int(file.attrs["epochs"]), int(file.attrs["batches"])
            seconds, *sums = float(file.attrs["seconds"]), *np.asarray(file.attrs["sums"], float)
            # The sums may hold the loss of a step that float16 skipped.
            if not (0 <= epochs < 2**31 and 0 <= batches < 2**31 and np.isfinite(seconds)):
                raise ValueError(f"it says {epochs} epochs and {batches} steps, after {seconds} s")
            _assign(_variables(model), file)
        return Progress(epochs, batches, seconds, tuple(sums))
    except Exception as error:  # A damaged file can raise anything.
        raise InputError(f"{path} cannot be resumed from: {first_line(error)}") from None


def _assign(variables, file):
    # Loss scaling begins again where the run had none.
    needed = {name: v for name, v in variables.items() if name in file or not name.startswith(_SCALING)}
    for name, variable in needed.items():
        if name not in file:
            raise ValueError(f"it has no {name}")
        if file[name].shape != tuple(variable.shape):
            raise ValueError(
                f"{name} has the shape {file[name].shape}, and must have {tuple(variable.shape)}"
            )
    for name, variable in needed.items():
        variable.assign(file[name][()])
