"""A Keras model's state dict gives the same logits in independently written PyTorch models."""

import numpy as np
import pytest
import torch
import torch_reference

import convmixer_keras as ck
from convmixer_keras.convert.weights import to_torch
from convmixer_keras.utils.errors import InputError


@pytest.mark.parametrize("layout", ["timm", "official"])
def test_written_state_dict_loads_strictly(layout):
    model = ck.ConvMixer(16, 2, 3, 2, classes=10, input_shape=(None, None, 3))
    state = {name: torch.from_numpy(array) for name, array in to_torch.to_state_dict(model, layout).items()}
    reference = torch_reference.random_model(layout, 16, 2, 3, 2, 10, 3)
    reference.load_state_dict(state, strict=True)
    assert list(state) == list(reference.state_dict())
    assert all(state[name].dtype == t.dtype for name, t in reference.state_dict().items())
    images = np.random.default_rng(1).standard_normal((2, 19, 19, 3), np.float32)
    expected = torch_reference.logits(reference.eval(), images)
    assert np.std(expected) > 0.05  # Outputs that are all alike would prove nothing.
    np.testing.assert_allclose(np.asarray(model(images)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalization": "layer"}, "'stem_ln' is no batch"),
        ({"residual": False}, "'block0_pointwise'.*no residual"),
        ({"include_top": False, "classes": None}, "no classifier"),
    ],
)
def test_models_that_have_no_counterpart(arguments, message):
    model = ck.ConvMixer(8, 1, 3, 2, **{"classes": 3, "input_shape": (8, 8, 3)} | arguments)
    with pytest.raises(InputError, match=message):
        to_torch.to_state_dict(model)


def test_weights_that_are_not_finite_stay_in_keras():
    model = ck.ConvMixer(8, 1, 3, 2, classes=3, input_shape=(8, 8, 3))
    model.get_layer("head").bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(InputError, match="head"):
        to_torch.to_state_dict(model)


def test_unknown_layout():
    with pytest.raises(InputError, match="'timm', 'official'"):
        to_torch.to_state_dict(ck.ConvMixer(8, 1, 3, 2, input_shape=(8, 8, 3)), "labml")
