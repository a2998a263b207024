"""Source code that runs a `.tflite` file on a phone or a page with MediaPipe, with the file's own numbers."""

import importlib.resources
import os
import string

from convmixer_keras.utils.errors import InputError

ENDINGS = {"kotlin": ".kt", "swift": ".swift", "js": ".js"}
TOP = 5  # Classes that it names.


def check_fits(model, preprocessing, batch):
    """Raises InputError for a model whose file MediaPipe's `ImageClassifier` does not take."""
    from convmixer_keras.models import inputs, parts

    found = parts.of(model)
    normalises = inputs.takes_pixels(model) is not False or (
        preprocessing is not None and preprocessing.mean is not None
    )
    if found.head is None or found.sizes.channels != 3 or batch != 1 or not normalises:
        raise InputError(
            "--snippet is for a classifier of one RGB image at a time, whose file takes pixels: without "
            "--batch, and with --mean and --std for a network of normalised channels"
        )


def check_name(name):
    """Raises InputError for a file's name that would not be itself between quotes of source code."""
    if any(sign in name for sign in "'\"\\$"):
        raise InputError(f"with --snippet the name of the file must be without quotes, \\ and $, got {name}")


def snippet(language, name, preprocessing, classes):
    """Returns the source code for a file.

    Args:
        language: A key of `ENDINGS`.
        name: The file's, without a folder.
        preprocessing: The `Preprocessing` that it records.
        classes: How many it has.
    """
    templates = importlib.resources.files("convmixer_keras.commands") / "templates"
    template = string.Template((templates / f"classify{ENDINGS[language]}").read_text("utf-8"))
    height, width = preprocessing.size
    return template.substitute(
        model=name,
        stem=os.path.splitext(name)[0],
        record=f"{preprocessing}; {classes} classes",
        height=height,
        width=width,
        crop_pct=f"{preprocessing.crop_pct:g}",
        turned="true" if preprocessing.orientation == "exif" else "false",
        top=min(TOP, classes),
    )
