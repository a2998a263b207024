import keras
import numpy as np
import pytest
from small_models import build

from convmixer_keras.models.receptive_field import effective_receptive_field
from convmixer_keras.utils.errors import InputError


def test_the_receptive_field_is_the_gradient():
    """Against finite differences: with one channel the random signs do not matter."""
    model = build(seed=1, hidden_dim=1, depth=2, kernel_size=3, patch_size=2, input_shape=(12, 10, 2))
    image = np.random.default_rng(0).normal(size=(1, 12, 10, 2))
    features = keras.Model(model.inputs, model.get_layer("block1_pointwise_bn").output)
    step = 1e-2
    steps = step * np.eye(image.size).reshape(-1, *image.shape[1:])
    shifted = np.concatenate([image + steps, image - steps])
    up, down = features.predict(shifted, verbose=0)[:, 3, 2, 0].reshape(2, 12, 10, 2)
    expected = (np.abs(up - down) / (2 * step)).sum(-1)
    field, side, largest = effective_receptive_field(model, 1, images=image)
    np.testing.assert_allclose(field, expected, rtol=0, atol=0.02 * expected.max())
    assert largest == 2 * (1 + 2 * 2)
    by_hand = next(
        2 + 2 * r
        for r in range(12)
        if field[max(0, 6 - r) : 8 + r, max(0, 4 - r) : 6 + r].sum() >= 0.95 * field.sum()
    )
    assert side == by_hand


def test_a_network_that_mixes_no_places_sees_one_patch():
    model = build(hidden_dim=6, depth=2, kernel_size=5, input_shape=(30, 30, 3))
    for i in range(2):
        layer = model.get_layer(f"block{i}_depthwise")
        kernel, bias = layer.get_weights()
        kernel[[0, 1, 3, 4]] = 0
        kernel[:, [0, 1, 3, 4]] = 0
        layer.set_weights([kernel, bias])
    field, side, largest = effective_receptive_field(model, 1, share=1.0)
    assert (side, largest) == (3, 27)
    assert np.count_nonzero(field) == 9


def test_the_side_ends_at_the_border():
    """The middle of an even number of places lies off the centre, so that a whole square would stick out."""
    field, side, largest = effective_receptive_field(build(input_shape=(12, 9, 3)), 1, share=1.0)
    assert np.count_nonzero(field) == field.size
    assert (side, largest) == (12, 51)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": 2}, "block must be 0 to 1, got 2"),
        ({"block": 0, "share": 0}, "share must be over 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        effective_receptive_field(build(), **arguments)


def test_other_models_are_refused():
    inputs = keras.Input((8, 8, 3))
    other = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    with pytest.raises(InputError, match="not a ConvMixer"):
        effective_receptive_field(other, 0)
