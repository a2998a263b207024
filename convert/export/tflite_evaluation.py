"""Loss, top-1 and top-5 of a `.tflite` file, measured on image files as a device reads them."""

import os
import warnings

import numpy as np

from convmixer_keras.convert.export.runtime import Classifier
from convmixer_keras.data.datasets import check_fit, open_source
from convmixer_keras.images.scores import scores, softmax
from convmixer_keras.images.splits import validation_split
from convmixer_keras.utils import streams
from convmixer_keras.utils.errors import InputError


def evaluate(
    path,
    recipe,
    data_dir=None,
    *,
    preprocessing=None,
    max_bad_images=0,
    threads=1,
    counted=None,
    confusion=False,
):
    """Evaluates a `.tflite` file on the validation split of a recipe's data set.

    Each image file goes through `Classifier`, one after the other, without the training pipeline.

    Args:
        path: A `.tflite` file that names classes.
        recipe: A `Recipe`; its data set and the names of its splits count.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        preprocessing: A `Preprocessing` in place of the file's own.
        max_bad_images: How many files of a folder may turn out not to be readable as images.
        threads: How many CPU threads to use.
        counted: Function that goes through examples, given their number, and shows how far it is, or None.
        confusion: Whether to count which class was taken for which.

    Returns:
        A `Scores`.

    Raises:
        InputError: If the file cannot be run or does not fit the data set, or too many images are bad.
    """
    with streams.silence():  # LiteRT says that it has begun, and what it finds wrong with a file.
        classifier = Classifier(path, threads, preprocessing)
    if classifier.output_name == "features":
        raise InputError(f"{path} gives features, and no score for each class")
    source = open_source(recipe, data_dir)
    name = validation_split(source, recipe)
    split = source.read(name)
    check_fit(path, classifier.input_shape[-1], classifier.classes, classifier.class_names, source)
    examples = split.examples.as_numpy_iterator()
    predictions, labels, bad = [], [], []
    for image, label in counted(examples, split.size) if counted else examples:
        image = os.fsdecode(image) if split.files is not None else _input(image, classifier)
        try:
            predictions.append(classifier.predict(image)[0])
        except InputError as error:
            bad.append(image)
            if len(bad) > max_bad_images:
                raise
            warnings.warn(f"{error}; it is left out", stacklevel=2)
            continue
        labels.append(label)
    if not labels:
        raise InputError(f"none of the images of {recipe.dataset} can be read")
    predictions = np.stack(predictions)
    if classifier.output_name == "logits":
        predictions = softmax(predictions)
    counts = None
    if confusion:
        counts = np.zeros((classifier.classes, classifier.classes), np.int64)
        np.add.at(counts, (np.asarray(labels), predictions.argmax(1)), 1)
    found = scores(predictions, labels)
    return found._replace(split=name, class_names=list(source.class_names), confusion=counts)


def _input(image, classifier):
    """What `Classifier` takes of an example that is no file: the bytes of one, or a decoded image."""
    return image if isinstance(image, bytes) else classifier.preprocessing(image)
