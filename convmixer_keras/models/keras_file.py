"""What a `.keras` or `.weights.h5` file says about itself, checked before Keras unpacks it."""

import json
import os
import zipfile

from convmixer_keras.utils import limits
from convmixer_keras.utils.errors import InputError, first_line

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
# More than any network of this kind has, and little enough to be allocated.
LARGEST_SIDE = 65_536
_SIDES = ("units", "filters", "kernel_size", "pool_size", "strides", "input_dim", "output_dim")


def check_keras_file(path):
    """Raises InputError unless a file is a whole `.keras` archive of a stated size."""
    if not os.path.isfile(path):
        raise InputError(
            f"{path} is a folder, not a file" if os.path.isdir(path) else f"there is no file {path}"
        )
    limits.check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            missing = {_WEIGHTS, _CONFIG} - set(archive.namelist())
            if missing:
                raise InputError(f"{path} is not a .keras file: it has no {' and no '.join(sorted(missing))}")
            _check_sides(path, json.loads(archive.read(_CONFIG)))
            with archive.open(_WEIGHTS) as file:
                check_weights(path, file)
    except InputError:
        raise
    except Exception as error:  # A damaged archive can raise anything.
        raise InputError(f"{path} is damaged: {first_line(error)}") from None


def check_weights(path, file=None):
    """Raises InputError unless an HDF5 file, or an open one inside `path`, is whole and within the limit."""
    import h5py

    size = 0

    def add(_, item):
        nonlocal size
        if isinstance(item, h5py.Dataset):
            size += item.nbytes

    try:
        with h5py.File(path if file is None else file, "r") as weights:
            weights.visititems(add)
    except Exception as error:  # A damaged file can raise anything.
        raise InputError(f"{path} is damaged: {first_line(error)}") from None
    limits.check_unpacked(path, size, "its weights")


def _check_sides(path, config, name="model"):
    """Looks through a model's configuration for layers too large to build."""
    if isinstance(config, list):
        for item in config:
            _check_sides(path, item, name)
    if not isinstance(config, dict):
        return
    name = config.get("name", name)
    for key, value in config.items():
        sides = value if isinstance(value, list) else [value]
        if key in _SIDES and any(isinstance(side, int) and side > LARGEST_SIDE for side in sides):
            raise InputError(f"{path} has a layer {name!r} with {key} {value}, over {LARGEST_SIDE:,}")
        _check_sides(path, value, name)
