"""What models take."""

import keras
import small_models

from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import inputs


def test_who_takes_pixels():
    normalized, raw = small_models.build(), small_models.build(input_mean=120, input_std=60)
    image = keras.Input(small_models.SHAPE)
    assert inputs.takes_pixels(raw)
    assert inputs.takes_pixels(keras.Sequential([image, raw]))
    assert not inputs.takes_pixels(normalized)
    assert not inputs.takes_pixels(keras.Model(image, normalized(image)))
    assert inputs.takes_pixels(keras.Model(image, normalized(keras.layers.Rescaling(1 / 255)(image))))
    assert inputs.takes_pixels(keras.Model(image, keras.layers.Conv2D(4, 3)(image)))  # Not one of ours.


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
