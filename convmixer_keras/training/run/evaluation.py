"""Loss, top-1 and top-5 of a trained model on a data set."""

import dataclasses
import math

from convmixer_keras import inference
from convmixer_keras.data import pipeline
from convmixer_keras.data.datasets import open_source
from convmixer_keras.recipes import Recipe
from convmixer_keras.utils import progress
from convmixer_keras.utils.files import Path

BATCH, MOST_VALUES = 32, 2**25  # Images in a batch, and values in it: 128 MiB.


def evaluate(
    path: Path,
    recipe: Recipe,
    data_dir: Path | None = None,
    verbose: int = 0,
    *,
    scores: str | None = None,
    changes: dict | None = None,
    **checks: int,
) -> inference.Scores:
    """Evaluates a trained model on the validation split of a recipe's data set.

    Args:
        path: A model, as `inference.load` takes it.
        recipe: A `Recipe`; its data set counts. Where the file does not say how photographs
            become its input, so do its image size, crop, filter and orientation, and its mean and std where
            the model does not normalise by itself; a note on standard error says so.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        verbose: Whether to show how far it is.
        scores: "logits" or "probabilities": what the model's outputs are, where the file does not say.
        changes: Dictionary of fields of `Preprocessing` to take in place of what the file says. With another
            `size`, a model of a `.keras` file is run at that size.
        checks: `max_bad_images` and `check_images`, as in `pipeline.load`.

    Returns:
        A `Scores`.

    Raises:
        InputError: If the file is not a model of class scores, does not say what they are, gives NaN, or does
            not fit the data set; if images have no label, or too many cannot be read.
    """
    opened = open_model(path, recipe, scores, changes)
    return evaluate_opened(opened, recipe, data_dir, verbose, **checks)


def open_model(path, recipe=None, scores=None, changes=None):
    """Opens a model for `evaluate_opened`.

    The arguments are those of `evaluate`; without a recipe, a file that does not say how photographs become
    its input gets the default of `inference.load`.
    """

    def by_recipe(shape, takes_pixels):
        height, width, channels = shape
        size = height or recipe.image_size, width or recipe.image_size
        record = dataclasses.replace(recipe.preprocessing(channels), size=size)
        if takes_pixels is not False:
            return record
        network = recipe.for_channels(channels)
        return dataclasses.replace(record, mean=network.mean, std=network.std)

    return inference.load(path, scores=scores, default=recipe and by_recipe, **(changes or {}))


def evaluate_opened(opened, recipe, data_dir=None, verbose=0, source=None, **checks):
    """Evaluates a `Predictor` as `evaluate` does a file.

    `source` is the data set where it is open already. The splits of a folder depend on what the recipe that
    opened it holds out: the test split of a run has to come from the run's own recipe.
    """
    source = source or open_source(recipe, data_dir)
    # The batches have no effect on the result: few images at a time, and of large ones fewer.
    count = max(1, min(BATCH, MOST_VALUES // math.prod(opened.input_shape)))
    recipe = dataclasses.replace(recipe, batch_size=count)
    opened.check_fits(source.name, source.class_names, source.channels)
    data = pipeline.load_validation(recipe, source=source, preprocessing=opened.preprocessing, **checks)
    images = data.images.as_numpy_iterator()
    if verbose:
        images = progress.shown(images, "evaluating", data.size, "images", lambda batch: len(batch[0]))
    with data.errors_named():
        found = opened.evaluate((pixels, labels.argmax(1)) for pixels, labels in images)
    return found._replace(
        split=data.split, class_names=list(source.class_names), named_images=data.examples.named_images
    )
