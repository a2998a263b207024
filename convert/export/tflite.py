"""A ConvMixer as a `.tflite` file, quantised or not."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.convert import agreement
from convmixer_keras.convert.export import archive, flatbuffer, metadata, runtime, source
from convmixer_keras.convert.export.calibration import calibration_images
from convmixer_keras.convert.export.mobile import mobile
from convmixer_keras.convert.export.quantization import MODES
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import inputs, outputs
from convmixer_keras.utils import checks, extras, progress, streams
from convmixer_keras.utils.errors import InputError, arg
from convmixer_keras.utils.files import Path, written_whole
from convmixer_keras.utils.version import __version__

MOST_VALUES = 2**27  # In a batch of images: half a gigabyte of float32.


class Report(NamedTuple):
    """What `export` wrote.

    Attributes:
        size: Of the file, in bytes.
        takes_pixels: Whether the file takes raw pixels 0..255, or normalised channels.
        output: Name of the output: "probabilities", "logits" or "features".
        agreement: The `Agreement` with the Keras model, on logits where the file gives probabilities.
    """

    size: int
    takes_pixels: bool
    output: str
    agreement: agreement.Agreement


def export(
    model: keras.Model | Path,
    path: Path,
    mode: str = "float32",
    *,
    calibration: np.ndarray | Path | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    whole_kernels: bool = False,
    author: str | None = None,
    license: str | None = None,
    logits: bool = False,
    verbose: bool = False,
) -> Report:
    """Writes a ConvMixer as a `.tflite` file, whole or not at all, and checks the file.

    The file has the signature `image` -> `probabilities`, `logits` or `features`, with a fixed batch.
    A classifier that gives logits gets a softmax at its end (a sigmoid for a single one), unless `logits` is
    set. In "int8" it takes uint8 pixels (float32 where the model gives a map of features) and gives float32.

    XNNPACK takes every operation but GELU in "int8", for which LiteRT has its own kernel, and the
    comparisons in the activations `selu`, `sparse_plus`, `soft_shrink` and `hard_shrink`.

    Args:
        model: A ConvMixer as a `keras.Model`, or the path of a `.keras` file, whose class names and
            `Preprocessing` count where the arguments give none.
        path: The file to write.
        mode: A key of `MODES`: "float32", "float16", "dynamic" or "int8".
        calibration: Images to check the file with, and for "int8" to find the ranges with, which takes
            images like those that the file will see: an array (images, height, width, channels) of what the
            file takes, or the name of a source: a folder of images, "digits", or a name that
            tensorflow-datasets knows. None for random ones.
        labels: Sequence of the name of each class, to travel in the file, or None.
        preprocessing: The `Preprocessing` of the model, which travels in the file: its `mean` and `std`, if
            it has any, become part of the network, which then takes raw pixels. None where it is not known;
            `Classifier` then uses a default, with a note.
        size: (height, width) of the images, which may be others than the model's own: its convolutions take
            any. None for the model's, or where that is open for that of `preprocessing`.
        batch: How many images the file takes at a time. MediaPipe takes only files of one.
        whole_kernels: Whether convolutions keep the model's shapes, for runtimes and accelerators without
            XNNPACK's fast small kernels: x86 with LiteRT 1.0, for one. Where XNNPACK computes, this is slow.
        author, license: Of the model, to be named in the file's metadata, or None.
        logits: Whether the scores stay as they are before a softmax or sigmoid.
        verbose: Whether to print what is being done, and how far it is.

    Returns:
        A `Report`.

    Raises:
        InputError: If an argument does not fit the model or the others, or the file cannot be written.
        Failure: If the file disagrees with the model beyond what its mode explains; nothing is written.
    """
    checks.tensorflow_backend("the export to TFLite")
    checks.one_of("mode", mode, MODES)
    if MODES[mode].quantise:
        extras.require("ai_edge_quantizer")
    if MODES[mode].integers and calibration is None:
        raise InputError(
            f"mode {mode} needs images to find the ranges of its integers with: {arg('calibration')}"
        )
    batch = checks.positive_int("batch", batch)
    model, labels, preprocessing = source.opened(model, labels, preprocessing, size)
    model, output = source.scored(model, logits)
    small = mobile(
        model,
        batch=batch,
        preprocessing=preprocessing,
        integer=MODES[mode].integers,
        whole_kernels=whole_kernels,
    )
    shape = small.input_shape[1:]
    if batch * math.prod(shape) > MOST_VALUES:
        raise InputError(f"{arg('batch')} must leave at most {MOST_VALUES:,} values in a batch, got {batch}")
    if (author or license) and len(small.output_shape) != 2:
        raise InputError("author and license have no place in a file that gives feature maps")
    takes_pixels, taken = inputs.takes_pixels(model) is not False, lambda images: images
    if preprocessing is not None:
        taken, takes_pixels = preprocessing.normalized, takes_pixels or preprocessing.mean is not None
        # The file normalises its input itself.
        preprocessing = dataclasses.replace(preprocessing, mean=None, std=None)
    counted = partial(progress.shown, unit="images") if verbose else lambda images, *_: images
    with written_whole(path) as temporary:
        images = calibration_images(calibration, shape, takes_pixels, preprocessing, counted)
        if verbose:
            print("converting the network", flush=True)
        network = _network(small, MODES[mode], output, images, takes_pixels, counted)
        if len(small.output_shape) == 2:
            # Without metadata MediaPipe refuses a file, and there is no task for a map of features.
            described = metadata.metadata(
                name=model.name,
                description=f"ConvMixer in {mode}, written by convmixer-keras {__version__}",
                input_shape=shape,
                takes_pixels=takes_pixels,
                output_name=output,
                labels=labels is not None,
                author=author,
                license=license,
            )
            flatbuffer.set_metadata(network, metadata.ENTRY, described)
        content = flatbuffer.serialize(network)
        content += archive.to_bytes(labels, takes_pixels, preprocessing, content)
        found = _compared(model, taken, network, content, temporary, output, images, mode, counted)
    return Report(len(content), takes_pixels, output, found)


def _network(small, mode, output, images, takes_pixels, counted):
    """Returns a `mobile` model as the flatbuffer's object, in its mode."""
    network = flatbuffer.read(_converted(small))
    # The calibration runs the file by its names.
    flatbuffer.name_ends(network, output)
    if mode.quantise:
        content = flatbuffer.serialize(network)
        network = flatbuffer.read(mode.quantise(content, images, small.input_shape[0], takes_pixels, counted))
    if mode.integers and len(small.output_shape) == 2:
        # MediaPipe would take a map of features in a file of bytes for one long vector.
        flatbuffer.take_bytes(network)
    if mode.halves:
        flatbuffer.store_as_float16(network)
    flatbuffer.name_ends(network, output)
    flatbuffer.set_versions(network)
    return network


def _compared(model, taken, network, content, path, output, images, mode, counted):
    """Writes the file to `path` and returns its `Agreement` with the model, which takes `taken(images)`."""
    has_scores = output == "probabilities"
    unscored = outputs.logits_model(model) if has_scores else model
    inputs_of_model = (taken(image[None]) for image in counted(images, "running the Keras model"))
    expected = np.concatenate([agreement.outputs_of(unscored, image) for image in inputs_of_model])
    file = _opened(path, flatbuffer.before_scores(network) if has_scores else content)
    got = file.outputs(counted(images, "running the file"))
    got = got.reshape(expected.shape)  # The converter may have moved the last reshape behind the scores.
    found = agreement.check(
        got,
        expected,
        f"the {mode} file and the model",
        features=output == "features",
        mean_tolerance=MODES[mode].mean_tolerance,
    )
    if has_scores:
        kind = outputs.ending(model).kind
        scores = [_opened(path, content).outputs(images[0]), np.asarray(keras.activations.get(kind)(got[:1]))]
        # With the probability of "no": int8 has steps of 1/256, however small that of "yes" is.
        if kind == "sigmoid":
            scores = [np.hstack([yes, 1 - yes]) for yes in scores]
        between = f"the {mode} file's probabilities and those of its logits"
        agreement.check(*scores, between, probabilities=True, tolerance=0.01)
    return found


def _opened(path, content):
    with open(path, "wb") as file:
        file.write(content)
    return runtime.Classifier(path)


def _converted(small):
    """Returns the float32 file of a `mobile` model."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    image = tf.TensorSpec(small.input_shape, tf.float32, name="image")
    traced = tf.function(lambda image: small(image, training=False), input_signature=[image])
    # Without variables the converter needs no saved model, which takes most of its time.
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function())
    constant = tf.function(lambda image: frozen(image)[0], input_signature=[image]).get_concrete_function()
    with streams.quiet_python():  # It calls this deprecated, and has no other way without a saved model.
        return tf.lite.TFLiteConverter.from_concrete_functions([constant]).convert()
