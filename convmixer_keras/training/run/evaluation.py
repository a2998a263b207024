"""Loss, top-1 and top-5 of a saved model."""

import dataclasses

import numpy as np

from convmixer_keras.data import pipeline as data_module
from convmixer_keras.data.datasets import check_fit, open_source
from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.scores import Scores
from convmixer_keras.models import outputs
from convmixer_keras.models.inputs import takes_pixels
from convmixer_keras.models.saving import load_class_names, load_model
from convmixer_keras.training.step.training_model import compile_model
from convmixer_keras.utils.errors import InputError


def evaluate(
    path, recipe, data_dir=None, verbose=0, *, preprocessing=None, max_bad_images=0, confusion=False
):
    """Evaluates a saved model on the validation split of a recipe's data set.

    Args:
        path: A `.keras` file.
        recipe: A `Recipe`; its data set and batch size count. Where the file does not say how photographs
            become its input, so do its image size, crop, filter and orientation, and its mean and std where
            the model does not normalise by itself.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        verbose: As in `keras.Model.evaluate`.
        preprocessing: A `Preprocessing` in place of the file's own.
        max_bad_images: How many files of a folder may turn out not to be readable as images.
        confusion: Whether to count which class was taken for which.

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
    source = open_source(recipe, data_dir)
    check_fit(path, model.input_shape[-1], model.output_shape[-1], load_class_names(path), source)
    preprocessing = preprocessing or preprocessing_module.of(path) or _by_recipe(model, recipe)
    data = data_module.load_validation(recipe, data_dir, max_bad_images, preprocessing)
    from_logits = outputs.ending(model).kind == "logits"
    compile_model(model, "sgd", len(data.class_names), from_logits)
    with data.bad_images.checked():
        loss, top1, top5 = model.evaluate(data.images, verbose=verbose)
        counts = _confusion(model, data) if confusion else None
    images = data.size - len(data.bad_images.paths)
    return Scores(loss, top1, top5, images, data.split, list(data.class_names), counts)


def _by_recipe(model, recipe):
    height, width, channels = model.input_shape[1:]
    record = recipe.preprocessing(channels)
    record = dataclasses.replace(record, size=(height or recipe.image_size, width or recipe.image_size))
    if takes_pixels(model):
        return record
    mean, std = (_average_for_grey(values, channels) for values in (recipe.mean, recipe.std))
    return dataclasses.replace(record, mean=mean, std=std)


def _average_for_grey(values, channels):
    """Returns one value for each channel, or one for all; of three for a grey image their mean."""
    return values if len(values) in (1, channels) else (sum(values) / len(values),)


def _confusion(model, data):
    classes = len(data.class_names)
    counts = np.zeros((classes, classes), np.int64)
    for images, labels in data.images:
        found = np.asarray(model.predict_on_batch(images)).argmax(1)
        np.add.at(counts, (labels.numpy().argmax(1), found), 1)
    return counts
