"""The first phase of fine-tuning: the head learns alone, from features that the body computes once."""

import math

import keras
import numpy as np
import tensorflow as tf

from convmixer_keras.utils import progress
from convmixer_keras.utils.errors import Failure, arg

MOST_VALUES = 2**28  # Of features that are kept: 1 GiB, or 262,144 images of 1,024 channels.


def train_head(model, recipe, data, verbose, asked):
    """Trains the head of a model on the features of the training images, which are not augmented.

    `asked`, an `Asked`, may end it between two steps. Returns how many images it has learnt from, and its
    accuracy on the validation images, 0..1.
    """
    body, layer = keras.Model(model.input, model.get_layer("head").input), model.get_layer("head")
    (features, labels), (held_out, truth) = (
        _features(body, images, what, verbose, asked)
        for images, what in zip(data.plain, ("training", "validation"), strict=True)
    )
    # From zeros: of a random beginning, too much is left after the few steps of a few photographs.
    dense = keras.layers.Dense(layer.units, kernel_initializer="zeros", dtype="float32")
    head = keras.Sequential([keras.Input(features.shape[1:]), dense])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    head.compile(keras.optimizers.Adam(recipe.head_learning_rate), loss)
    targets, weights = np.eye(layer.units, dtype=np.float32)[labels], None
    if recipe.class_weight == "balanced":
        weights = (len(labels) / (layer.units * np.maximum(targets.sum(0), 1)))[labels]
    ending = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: asked.check())
    options = {"verbose": 0, "callbacks": [ending], "sample_weight": weights}
    head.fit(features, targets, recipe.batch_size, recipe.head_epochs, **options)
    if not all(np.isfinite(weight).all() for weight in head.get_weights()):
        rate = f"{arg('head_learning_rate')} {recipe.head_learning_rate:g}"
        raise Failure(f"the head's weights are NaN or infinite: {rate} is too high")
    layer.set_weights(head.get_weights())
    return len(labels), np.mean(head.predict_on_batch(held_out).argmax(1) == truth)


def _features(body, images, what, verbose, asked):
    """Returns float32 features (images, hidden_dim) of a `Validation`, and labels (images,)."""
    most = MOST_VALUES // math.prod(body.output_shape[1:])
    call = tf.function(lambda batch: body(batch, training=False), reduce_retracing=True)
    features, labels = [], []
    batches, total = images.images, min(images.size, most)
    if verbose:
        batches = progress.shown(batches, f"features of {what}", total, "images", lambda batch: len(batch[0]))
    for batch, targets in batches:
        asked.check()
        features.append(call(batch).numpy().astype(np.float32))
        labels.append(targets.numpy().argmax(1))
        if sum(map(len, labels)) >= most:
            break
    return np.concatenate(features), np.concatenate(labels)
