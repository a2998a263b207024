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
    layers = list(_layers(config))
    for layer in layers:
        for key in _SIDES:
            if max(_numbers(layer.get(key)), default=0) > LARGEST_SIDE:
                name = layer.get("name")
                raise InputError(
                    f"{path} has a layer {name!r} with {key} {layer[key]}, over {LARGEST_SIDE:,}"
                )
    widest = max((side for layer in layers for side in _outputs(layer)), default=1)
    limits.check_unpacked(path, sum(4 * _kernel_size(layer, widest) for layer in layers), "its layers")


def _layers(config):
    """Yields the configuration of each layer, at any depth, with its "build_config" where there is one."""
    if isinstance(config, dict) and isinstance(config.get("config"), dict):
        yield {**config["config"], "build_config": config.get("build_config")}
    if isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _layers(value)


def _numbers(value):
    return [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]


def _outputs(layer):
    return [side for key in _OUTPUTS for side in _numbers(layer.get(key))]


def _kernel_size(layer, widest):
    """How many weights a layer's kernel has; one that does not say its inputs may have the `widest`."""
    if not _outputs(layer) and "kernel_size" not in layer:
        return 0
    build = layer["build_config"]
    inputs = _numbers(build.get("input_shape"))[-1:] if isinstance(build, dict) else []
    return math.prod([*_numbers(layer.get("kernel_size")), *_outputs(layer), *(inputs or [widest])])
