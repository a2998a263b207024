"""Loss, top-1 and top-5 of a saved model."""

import dataclasses
from typing import NamedTuple

import keras

from convmixer_keras.data import pipeline as data_module
from convmixer_keras.models.saving import load_class_names, load_model
from convmixer_keras.training.trainer import compile_model
from convmixer_keras.utils.errors import InputError


class Scores(NamedTuple):
    """Mean cross-entropy in nats, accuracies 0..1, and over how many images."""

    loss: float
    top1: float
    top5: float
    images: int


def evaluate(path, recipe, data_dir=None, verbose=0):
    """Evaluates a saved model on the validation split of a recipe's data set.

    A model that does not normalise by itself, such as converted weights, gets the recipe's mean and standard
    deviation put before it.

    Args:
        path: A `.keras` file.
        recipe: A `Recipe`; its data set, evaluation crop, batch size, mean and std count, and its image size
            where the model leaves that open.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        verbose: As in `keras.Model.evaluate`.

    Returns:
        A `Scores`.

    Raises:
        InputError: If the file is not a Keras model, or does not fit the data set.
    """
    model = load_model(path)
    if len(model.input_shape) != 4 or len(model.output_shape) != 2:
        raise InputError(
            f"{path} must take images and give one score for each class, but takes {model.input_shape} and "
            f"gives {model.output_shape}"
        )
    height = model.input_shape[1]
    if height is not None:
        recipe = dataclasses.replace(recipe, image_size=height)
    data = data_module.load_validation(recipe, data_dir)
    _check_fit(path, model, recipe.dataset, data)
    if not any(isinstance(layer, keras.layers.Normalization) for layer in model.layers):
        mean, variance = [255 * m for m in recipe.mean], [(255 * s) ** 2 for s in recipe.std]
        model = keras.Sequential([keras.layers.Normalization(mean=mean, variance=variance), model])
    from_logits = _last_activation(model) is not keras.activations.softmax
    compile_model(model, "sgd", len(data.class_names), from_logits)
    with data.bad_images.named():
        loss, top1, top5 = model.evaluate(data.images, verbose=verbose)
    return Scores(loss, top1, top5, data.size)


def _check_fit(path, model, dataset, data):
    channels, classes = model.input_shape[-1], model.output_shape[-1]
    if channels != data.channels:
        raise InputError(f"{path} takes {channels} channels, but images of {dataset} have {data.channels}")
    if classes != len(data.class_names):
        raise InputError(f"{path} knows {classes} classes, but {dataset} has {len(data.class_names)}")
    names = load_class_names(path)
    for known, there in zip(names or (), data.class_names, strict=False):
        if known != there:
            raise InputError(f"{path} knows a class {known!r} where {dataset} has {there!r}")


def _last_activation(model):
    layer = model.layers[-1]
    while isinstance(layer, keras.Model):
        layer = layer.layers[-1]
    return getattr(layer, "activation", None)
