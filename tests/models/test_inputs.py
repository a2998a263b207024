"""What models take."""

import keras
import numpy as np
import small_models

from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import inputs


def test_who_takes_pixels():
    normalized, raw = small_models.build(), small_models.build(input_mean=120, input_std=60)
    image = keras.Input(small_models.SHAPE)
    assert inputs.takes_pixels(raw)
    assert inputs.takes_pixels(keras.Sequential([image, raw]))
    assert inputs.takes_pixels(normalized) is False
    assert inputs.takes_pixels(keras.Model(image, normalized(image))) is False
    assert inputs.takes_pixels(keras.Model(image, normalized(keras.layers.Rescaling(1 / 255)(image))))
    assert (
        inputs.takes_pixels(keras.Model(image, keras.layers.Conv2D(4, 3)(image))) is None
    )  # Not one of ours.


def test_the_size_of_images():
    record = Preprocessing((40, 50))
    for shape, recorded, size in (
        ((13, 15, 3), record, (13, 15)),
        ((None, 15, 3), record, (40, 15)),
        ((None, None, 3), record, (40, 50)),
        ((None, None, 3), None, (224, 224)),
    ):
        model = small_models.build(depth=1, kernel_size=3, input_shape=shape)
        assert inputs.image_size(model, recorded) == size


def test_a_copy_in_float32_whatever_the_graph_holds():
    """Operations of keras.ops, and inputs in a list or a dictionary."""
    body = small_models.build(depth=1, kernel_size=3)
    expected = keras.ops.softmax(body(images := np.ones((2, *small_models.SHAPE), np.float32)))
    for structure in (lambda image: image, lambda image: [image], lambda image: {"image": image}):
        fixed = keras.Input(batch_shape=(2, *small_models.SHAPE), name="image")
        model = keras.Model(structure(fixed), keras.ops.softmax(body(fixed)))
        copy = inputs.in_float32(model)
        assert copy.inputs[0].shape[0] is None
        np.testing.assert_allclose(copy(structure(images)), expected, rtol=1e-5)
