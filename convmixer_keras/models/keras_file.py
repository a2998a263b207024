"""What a `.keras` or `.weights.h5` file says about itself, checked before Keras unpacks it."""

import json
import math
import zipfile

from convmixer_keras.utils import limits
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import check_file

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
# More than any network of this kind has, and little enough to be allocated.
LARGEST_SIDE = 65_536
_OUTPUTS = ("units", "filters")
_SIDES = (*_OUTPUTS, "kernel_size", "pool_size", "strides", "input_dim", "output_dim")


def check_keras_file(path):
    """Raises InputError unless a file is a whole `.keras` archive of a stated size."""
    limits.check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            missing = {_WEIGHTS, _CONFIG} - set(archive.namelist())
            if missing:
                raise InputError(f"{path} is not a .keras file: it has no {' and no '.join(sorted(missing))}")
            _check_config(path, json.loads(archive.read(_CONFIG)))
            with archive.open(_WEIGHTS) as file:
                check_weights(path, file)
    except InputError:
        raise
    except Exception as error:  # A damaged archive can raise anything.
        raise InputError(f"{path} is damaged: {first_line(error)}") from None


def check_weights_file(path):
    """Raises InputError unless a file is a whole `.keras` or `.weights.h5` file of a stated size."""
    import h5py

    check_file(path)
    if zipfile.is_zipfile(path) or (str(path).endswith(".keras") and not h5py.is_hdf5(path)):
        check_keras_file(path)
    else:
        check_weights(path)


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
            if "model_config" in weights.attrs:
                _check_config(path, json.loads(weights.attrs["model_config"]))
    except InputError:
        raise
    except Exception as error:  # A damaged file can raise anything.
        raise InputError(f"{path} is damaged: {first_line(error)}") from None
    limits.check_unpacked(path, size, "its weights")


def _check_config(path, config):
    """Raises InputError for a model's configuration of layers too large to build."""
    _check_sides(path, config)
    layers = list(_layers(config))
    widest = max((side for layer in layers for side in _sides(layer)), default=1)
    size = sum(4 * _kernel_size(layer, widest) for layer in layers)
    limits.check_unpacked(path, size, "its layers")


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


def _layers(config):
    """Yields the configuration of each layer, at any depth."""
    if isinstance(config, dict) and isinstance(config.get("config"), dict):
        yield config
    if isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _layers(value)


def _sides(layer):
    return [side for key in _OUTPUTS if isinstance(side := layer["config"].get(key), int)]


def _kernel_size(layer, widest):
    """How many weights a layer's kernel has; one that does not say its inputs may have the `widest`."""
    kernel = layer["config"].get("kernel_size", 1)
    kernel = [side for side in (kernel if isinstance(kernel, list) else [kernel]) if isinstance(side, int)]
    build = layer.get("build_config")
    shape = build.get("input_shape") if isinstance(build, dict) else None
    known = isinstance(shape, list) and shape and isinstance(shape[-1], int)
    if not _sides(layer) and "kernel_size" not in layer["config"]:
        return 0
    return math.prod(kernel) * math.prod(_sides(layer)) * (shape[-1] if known else widest)
