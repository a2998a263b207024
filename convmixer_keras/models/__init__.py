"""The network."""

import lazy_loader

# The package shows these: `convmixer_keras.presets`, `convmixer_keras.visualization`.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, {"presets", "visualization"})
