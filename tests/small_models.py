"""Small ConvMixers for tests, as if they had been trained."""

import keras
import numpy as np

import convmixer_keras as ck

SHAPE = (13, 15, 3)


def build(seed=0, **arguments):
    """A small ConvMixer whose normalisations have seen something."""
    settings = {
        "hidden_dim": 24,
        "depth": 2,
        "kernel_size": 9,
        "patch_size": 3,
        "classes": 5,
        "input_shape": SHAPE,
        **arguments,
    }
    if settings.get("include_top") is False:
        del settings["classes"]
    model = ck.ConvMixer(**settings)
    randomize(model, seed)
    return model


def randomize(model, seed=0):
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            gamma = random.uniform(0.5, 1.5, n) * random.choice([-1, 1], n)
            layer.set_weights(
                # Means as behind any activation.
                [gamma, random.normal(size=n), random.uniform(0, 1, n), random.uniform(0.1, 2, n)]
            )
        elif isinstance(layer, keras.layers.LayerNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights([random.normal(size=n), random.normal(size=n)])
