"""ConvMixer in Keras 3.

The public names stand in `__init__.pyi`. Each is imported when it is first used, so that the TFLite runtime
does not wait for Keras, nor the network for TensorFlow.
"""

import importlib.util
import os
import sys

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _find_convert_in_checkout():
    """Makes `convmixer_keras.convert` importable in a checkout.

    There it is a folder beside this one. Installed, it is inside this one, and Python finds it by itself.
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
