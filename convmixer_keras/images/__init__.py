"""A photograph as numbers, and what the numbers mean. Pillow and NumPy, no TensorFlow."""

import lazy_loader

# The package shows this one: `convmixer_keras.preprocessing`.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, {"preprocessing"})
