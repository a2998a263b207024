"""ConvMixer in Keras 3. This file is the table of contents.

A name is loaded when it is first asked for, so that what needs only NumPy does not wait for Keras, and what
needs only Keras does not wait for TensorFlow.
"""

import importlib.util
import os
import sys

__version__ = "0.1.0"

_MODULE_OF = {
    "ConvMixer": "model",
    "ConvMixer1536_20": "variants",
    "ConvMixer768_32": "variants",
    "ConvMixer1024_20": "variants",
    "ConvMixer1536_20_P14": "variants",
    "ConvMixer256_8": "variants",
    "decode_predictions": "preprocessing",
    "load_class_names": "saving",
    "model_complexity": "complexity",
    "save_model": "saving",
}
_MODULES = ("data", "preprocessing", "presets", "recipes", "training", "visualization")

__all__ = [*_MODULE_OF, *_MODULES]


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})


def _find_convert_in_checkout():
    """Lets `convmixer_keras.convert` be found where this package runs from its checkout.

    There it is a room beside this folder; installed, it is a folder in it, and there is nothing to do.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    folder = os.path.join(os.path.dirname(here), "convert")
    if os.path.isdir(os.path.join(here, "convert")) or not os.path.isdir(folder):
        return
    name = f"{__name__}.convert"
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_find_convert_in_checkout()
