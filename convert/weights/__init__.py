"""The weights of PyTorch and of other Keras programs, both ways. The public names stand in `__init__.pyi`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
