"""Packages that `pip install convmixer-keras` leaves out, and which of its extras brings them."""

import importlib.util

from convmixer_keras.utils.errors import InputError

# Import names, and the extra of setup.cfg.
EXTRAS = {
    "keras_cv": "train",
    "matplotlib": "train",
    "sklearn": "train",
    "tensorboard": "train",
    "tensorflow_datasets": "train",
    "ai_edge_quantizer": "export",
    "onnx": "export",
    "onnxruntime": "export",
    "torch": "torch",
}


def is_installed(module):
    """Returns whether a package is installed, by its import name, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # Of the package that it is part of.
        return False


def require(*modules):
    """Raises InputError where one of the packages, by their import names, is not installed.

    Call it before the import, so that a missing extra is one line and not a traceback.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        raise InputError(f"{missing[0]} is not installed: {how_to_install(EXTRAS[missing[0]])}")


def how_to_install(extra):
    """Returns the command that installs an extra, from the package index and in a checkout."""
    return f"pip install 'convmixer-keras[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
