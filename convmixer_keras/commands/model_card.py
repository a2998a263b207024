"""The card of a published model, in Markdown: what is known of it, and nothing else."""

import json

from convmixer_keras.models import inputs, parts
from convmixer_keras.models.complexity import model_complexity
from convmixer_keras.utils import hub

_FEATURES = ["print(model.predict(photo).shape)"]
_TOP = [
    "for _, name, probability in model.top(photo, k=3)[0]:",
    '    print(f"{name}: {probability:.3f}")',
]


def card(model, class_names, preprocessing, config, row, exports, files, license, name, images, unverified):
    """Returns the text of a model card.

    Args:
        model: The `keras.Model`.
        class_names, preprocessing: What its file says, or None.
        config: What its training run recorded, a dictionary, or None.
        row: The epoch of the run's history after which it was saved, a dictionary, or None.
        exports: Dictionary from the name of a `.tflite` file to the `tflite.Report` on it.
        files: Names of all files beside the card.
        license: Of the model, as Hugging Face calls it, or None.
        name: "hf://USER/REPO" where it is uploaded to, or None.
        images: On which images the `.tflite` files were compared with the model, in words.
        unverified: Names of the files that were not compared with it.
    """
    size = parts.of(model).sizes
    height, width = inputs.image_size(model, preprocessing)
    parameters, multiply_adds = model_complexity(model, (height, width, size.channels))
    lines = [
        "---",
        "library_name: keras",
        "pipeline_tag: image-classification",
        "tags:",
        "- convmixer",
        "- image-classification",
        *([f"license: {json.dumps(license)}"] if license else []),
        "---",
        "",
        f"# ConvMixer-{size.hidden_dim}/{size.depth}",
        "",
        f"{size}. {parameters:,} parameters, {multiply_adds:,} multiply-adds at {height}x{width}.",
        "",
        *_training(config, row),
        *(["![Learning curves](curves.png)", ""] if "curves.png" in files else []),
        "## Input",
        "",
        f"Photographs: {preprocessing}."
        if preprocessing
        else "The file does not say how photographs become its input.",
        "",
        *_classes(class_names),
        *_exports(exports, images),
        *([f"Not compared with the Keras model: {', '.join(unverified)}.", ""] if unverified else []),
        *_use(model, preprocessing, name or "model.keras"),
    ]
    return "\n".join(lines)


def _use(model, preprocessing, name):
    """A program that runs as it is, where convmixer-keras is installed."""
    features = parts.of(model).head is None
    lines = ["import convmixer_keras as ck"]
    has_photos = inputs.takes_pixels(model) is not False and parts.of(model).sizes.channels in (1, 3)
    if preprocessing or has_photos:
        lines = ["from PIL import Image", "", *lines]
        photo = 'Image.new("RGB", (320, 240))  # or the path of a photograph'
    else:
        lines = ["import numpy as np", "", *lines]
        photo = "np.zeros(model.input_shape)  # or an image as the network takes it, normalised"
    lines += [
        "",
        f'model = ck.inference.load("{name}"{", include_top=False" if features else ""})',
        f"photo = {photo}",
        *(_FEATURES if features else _TOP),
    ]
    note = [] if name.startswith(hub.PREFIX) else ["In the folder of this file:", ""]
    return ["## Use", "", *note, "```python", *lines, "```", ""]


def _training(config, row):
    if config is None:
        return ["## Training", "", "Nothing is recorded about its training.", ""]
    recipe, versions = config["recipe"], config.get("versions", {})
    lines = ["## Training", "", f"Data: {recipe['dataset']}"]
    if "train_images" in config:
        lines[-1] += (
            f", {config['train_images']:,} images to train on and {config['validation_images']:,} to validate"
        )
    lines[-1] += "."
    if row:
        accuracy = f"{100 * row['val_accuracy']:.2f} %"
        lines += ["", f"Validation accuracy {accuracy} after epoch {row['epoch']} of {recipe['epochs']}."]
    lines += ["", "| setting | value |", "| --- | --- |"]
    lines += [f"| {name} | {json.dumps(value)} |" for name, value in recipe.items()]
    if versions:
        made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines += ["", f"Made with {made_with}."]
    return [*lines, ""]


def _classes(names):
    if not names:
        return []
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return ["## Classes", "", f"{len(names)}: {shown}.", ""]


def _exports(exports, images):
    if not exports:
        return []
    lines = [
        "## TFLite files",
        "",
        f"Each was run against the Keras model on the same {images}.",
        "",
        "| file | MB | largest difference of a logit | same top-1 | images |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, report in exports.items():
        found = report.agreement
        top1 = "" if found.same_top1 is None else f"{found.same_top1} of {found.images}"
        difference = f"{found.difference:.2g} of {found.largest:.2g}"
        lines.append(f"| {name} | {report.size / 1e6:.2f} | {difference} | {top1} | {found.images} |")
    return [*lines, ""]
