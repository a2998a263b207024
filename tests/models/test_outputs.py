"""What models end in, and that their probabilities are NumPy's softmax or sigmoid of their logits, once."""

import keras
import numpy as np
import pytest

from convmixer_keras.models import outputs
from convmixer_keras.utils.errors import InputError

layers, ops = keras.layers, keras.ops
FEATURES, CLASSES = 6, 4


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def as_is(x):
    return x


def nested(*behind, **dense):
    """A model in a model, with layers behind it."""
    image = keras.Input((FEATURES,))
    inner = keras.Model(image, layers.Dense(CLASSES, **dense)(image))
    return lambda x: keras.Sequential([keras.Input((FEATURES,)), inner, *behind])(x)


def convolved(x):
    return layers.Conv2D(CLASSES, 1)(layers.Reshape((1, 1, FEATURES))(x))


def dense(x, *then, **options):
    x = layers.Dense(CLASSES, **options)(x)
    for layer in then:
        x = layer(x)
    return x


# What stands behind the features, the kind that it is, and what NumPy makes of its logits.
ENDINGS = {
    "dense": (dense, "logits", as_is),
    "dense with softmax": (lambda x: dense(x, activation="softmax"), "softmax", softmax),
    "dense with sigmoid": (lambda x: dense(x, activation="sigmoid"), "sigmoid", sigmoid),
    "Softmax": (lambda x: dense(x, layers.Softmax()), "softmax", softmax),
    "Activation": (lambda x: dense(x, layers.Activation("softmax")), "softmax", softmax),
    "ops.softmax": (lambda x: dense(x, ops.softmax), "softmax", softmax),
    "activations.softmax": (lambda x: dense(x, keras.activations.softmax), "softmax", softmax),
    "ops.sigmoid": (lambda x: dense(x, ops.sigmoid), "sigmoid", sigmoid),
    "before Dropout": (lambda x: dense(x, layers.Softmax(), layers.Dropout(0.5)), "softmax", softmax),
    "before Flatten": (
        lambda x: layers.Flatten()(layers.Softmax()(convolved(x))),
        "softmax",
        softmax,
    ),
    "before Reshape": (
        lambda x: layers.Reshape((CLASSES,))(layers.Activation("softmax")(convolved(x))),
        "softmax",
        softmax,
    ),
    "before ops.squeeze": (lambda x: ops.squeeze(ops.softmax(convolved(x)), (1, 2)), "softmax", softmax),
    "before a linear Activation": (
        lambda x: dense(x, layers.Activation("linear"), activation="softmax"),
        "softmax",
        softmax,
    ),
    "logits before Dropout and Flatten": (
        lambda x: layers.Dropout(0.5)(layers.Flatten()(convolved(x))),
        "logits",
        as_is,
    ),
    "nested": (nested(), "logits", as_is),
    "nested with softmax": (nested(activation="softmax"), "softmax", softmax),
    "nested before Softmax": (nested(layers.Softmax()), "softmax", softmax),
    "nested twice, before Dropout": (
        lambda x: layers.Dropout(0.5)(nested(layers.Reshape((CLASSES,)), activation="sigmoid")(x)),
        "sigmoid",
        sigmoid,
    ),
    "a nested model that only passes on": (
        lambda x: keras.Sequential([keras.Input((CLASSES,)), layers.Dropout(0.5)])(
            dense(x, activation="softmax")
        ),
        "softmax",
        softmax,
    ),
    "relu": (lambda x: dense(x, activation="relu"), "other", lambda x: np.maximum(x, 0)),
    "tanh": (lambda x: dense(x, layers.Activation("tanh")), "other", np.tanh),
    "ReLU": (lambda x: dense(x, layers.ReLU()), "other", lambda x: np.maximum(x, 0)),
}
UNDECIDED = {
    "a sum": lambda x: layers.Average()([dense(x, activation="softmax"), dense(x, activation="softmax")]),
    "a pooling": lambda x: layers.GlobalAveragePooling2D()(convolved(x)),
    "a temperature": lambda x: layers.Rescaling(0.5)(dense(x)),
    "softmax of each place, flattened": lambda x: layers.Flatten()(
        layers.Softmax()(layers.Reshape((2, CLASSES // 2))(dense(x)))
    ),
    "softmax along another axis": lambda x: layers.Flatten()(
        layers.Softmax(axis=1)(layers.Reshape((1, CLASSES))(dense(x)))
    ),
    "ops.exp": lambda x: ops.exp(dense(x)),
}


def ending_in(last):
    image = keras.Input((FEATURES,))
    model = keras.Model(image, last(layers.Dense(FEATURES)(image)))
    images = np.random.default_rng(0).normal(size=(3, FEATURES)).astype(np.float32)
    return model, images


def logits_by_hand(model, images):
    """With all weights that the model has: a dense layer, then another or a 1x1 convolution."""
    first, bias, second, more = model.get_weights()
    return (images @ first + bias) @ second.reshape(-1, CLASSES) + more


@pytest.mark.parametrize("name", ENDINGS)
def test_what_a_model_ends_in(name):
    last, kind, meaning = ENDINGS[name]
    model, images = ending_in(last)
    assert outputs.ending(model).kind == kind
    logits = logits_by_hand(model, images)
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(model(images).numpy().reshape(3, -1), meaning(logits), **close)
    found = outputs.logits_model(model)(images).numpy().reshape(3, -1)
    np.testing.assert_allclose(found, logits, **close)
    if kind == "other":
        with pytest.raises(InputError, match=r"may give logits or probabilities: scores must say"):
            outputs.probabilities(model)
        return
    expected = softmax(logits) if kind == "logits" else meaning(logits)
    # And of what was opened before: nothing is added twice.
    for again in (model, outputs.probabilities(model)):
        np.testing.assert_allclose(outputs.probabilities(again)(images).numpy(), expected, **close)
    with pytest.raises(InputError, match="and scores says"):
        outputs.probabilities(model, "probabilities" if kind == "logits" else "logits")


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_the_graph_does_not_say_is_asked_for(name):
    model, images = ending_in(UNDECIDED[name])
    assert outputs.ending(model).kind is None
    with pytest.raises(InputError, match="must say 'logits' or 'probabilities'"):
        outputs.probabilities(model)
    with pytest.raises(InputError, match="no logits are known"):
        outputs.logits_model(model)
    given = model(images).numpy()
    np.testing.assert_array_equal(outputs.probabilities(model, "probabilities")(images), given)
    found = outputs.probabilities(model, "logits")(images).numpy()
    np.testing.assert_allclose(found, softmax(given), rtol=0, atol=1e-6)


def test_one_logit_is_a_sigmoid():
    model, images = ending_in(layers.Dense(1))
    probabilities = outputs.probabilities(model)(images).numpy()
    np.testing.assert_allclose(probabilities, sigmoid(model(images).numpy()), rtol=0, atol=1e-6)
    assert outputs.ending(outputs.probabilities(model)).kind == "sigmoid"
    with pytest.raises(InputError, match="a softmax over one class, which is 1 for every image"):
        outputs.probabilities(ending_in(layers.Dense(1, activation="softmax"))[0])


def test_probabilities_are_float32_and_sum_to_one_under_every_policy():
    for policy in ("mixed_float16", "mixed_bfloat16", "float16"):
        keras.config.set_dtype_policy(policy)
        try:
            model, images = ending_in(layers.Dense(CLASSES))
            probabilities = outputs.probabilities(model)
        finally:
            keras.config.set_dtype_policy("float32")
        assert probabilities.outputs[0].dtype == "float32"
        np.testing.assert_allclose(probabilities.predict_on_batch(images).sum(1), 1, rtol=0, atol=1e-6)


def test_two_outputs():
    image = keras.Input((4,))
    with pytest.raises(InputError, match="one input and one output, and has 1 and 2"):
        outputs.ending(keras.Model(image, [layers.Dense(2)(image), layers.Dense(3)(image)]))
