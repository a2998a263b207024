"""A ConvMixer as a `.tflite` file, quantised or not."""

import dataclasses
from typing import NamedTuple

import numpy as np

from convmixer_keras.convert import agreement
from convmixer_keras.convert.export import (
    archive,
    flatbuffer,
    metadata,
    operation_versions,
    quantization,
    runtime,
)
from convmixer_keras.convert.export.calibration import calibration_images
from convmixer_keras.images.scores import softmax
from convmixer_keras.utils import extras, progress, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import written_whole
from convmixer_keras.utils.version import __version__

MODES = ("float32", "float16", "dynamic", "int8")
# Of the differences from the model, as `mean_tolerance` of `agreement.check`. Trained networks have 1e-3 in
# float16, 0.02 in dynamic and 0.1 in int8; random weights of a full-size network up to 0.3 in dynamic and
# 0.92 in int8. A file that gives zeros has 1, one that computes something else about 1.4.
_MEAN_TOLERANCES = {"float16": 0.03, "dynamic": 0.6, "int8": 0.97}


class Report(NamedTuple):
    """What `export` found when it ran the file against the Keras model.

    Attributes:
        size: Of the file, in bytes.
        images: Number of images compared.
        largest_difference: Between any two outputs.
        largest_output: Of the Keras model, absolute.
        same_top1: On how many images the highest output is the same; None for a model without its top.
        takes_pixels: Whether the file takes raw pixels 0..255, or normalised channels.
        output_name: "probabilities", "logits" or "features".
    """

    size: int
    images: int
    largest_difference: float
    largest_output: float
    same_top1: int | None
    takes_pixels: bool
    output_name: str


def export(
    model,
    path,
    mode="float32",
    *,
    calibration=None,
    labels=None,
    input_mean=None,
    input_std=None,
    size=None,
    whole_kernels=False,
    author=None,
    license=None,
    preprocessing=None,
    logits=False,
    verbose=False,
):
    """Writes a ConvMixer as a `.tflite` file, whole or not at all, and checks the file.

    The file has the signature `image` -> `probabilities`, `logits` or `features`, with a batch of one image.
    A classifier that gives logits gets a softmax at its end, unless `logits` is set. Weights and computation
    by mode:

    * "float32".
    * "float16": weights are kept as float16, half the size, and computed with as float32.
    * "dynamic": the dense convolutions and the head have int8 weights and quantise what comes in as they
      go; everything else is as in "float16".
    * "int8": integers throughout, with one scale per channel of a weight; takes uint8 pixels (float32 where
      the model gives a map of features) and gives float32 scores. Only a softmax at the end, and activations
      that have no integer form, are float32.

    XNNPACK takes every operation but GELU in "int8", for which LiteRT has its own kernel, and the
    comparisons in the activations `sparse_plus`, `soft_shrink` and `hard_shrink`. The file says which
    TensorFlow Lite it needs at least, 2.9 for GELU.

    With TFLite metadata in it, a file that takes pixels opens in MediaPipe's `ImageClassifier`, or in its
    `ImageEmbedder` where the model gives one vector of features.

    Args:
        model: A `keras.Model` made by `convmixer_keras.ConvMixer` or a named builder.
        path: The file to write.
        mode: One of "float32", "float16", "dynamic", "int8".
        calibration: Images to check the file with, and for "int8" to find the ranges with, which takes
            images like those that the file will see: an array (images, height, width, channels) of what the
            file takes, or the name of a source: a folder of images, "digits", or a name that
            tensorflow-datasets knows. None for random ones.
        labels: Sequence of the name of each class, to travel in the file, or None.
        input_mean, input_std: As in `convmixer_keras.ConvMixer`, for a model that takes normalised
            channels: the file then takes raw pixels.
        size: (height, width), where the model leaves them free.
        whole_kernels: Whether convolutions keep the model's shapes, for runtimes and accelerators without
            XNNPACK's fast small kernels: x86 with LiteRT 1.0, for one. Where XNNPACK computes, this is slow.
        author, license: Of the model, to be named in the file's metadata, or None.
        preprocessing: The `Preprocessing` of the model, which travels in the file: its `mean` and `std`, if
            it has any, become part of the network, as `input_mean` and `input_std` do. None where it is
            not known; `Classifier` then uses a default, with a note.
        logits: Whether a classifier that gives logits is left as it is.
        verbose: Whether to print what is being done, and how far it is.

    Returns:
        A `Report`.

    Raises:
        InputError: If an argument does not fit the model or the others, or the file cannot be written.
        Failure: If the file disagrees with the model beyond what its mode explains; nothing is written.
    """
    import keras

    from convmixer_keras.convert.export.mobile import mobile
    from convmixer_keras.models import arguments, inputs
    from convmixer_keras.utils import checks

    checks.one_of("mode", mode, MODES)
    if mode in ("dynamic", "int8"):
        extras.require("ai_edge_quantizer")
    channels = model.inputs[0].shape[-1] if isinstance(model, keras.Model) else None
    if input_mean is None and preprocessing is not None and preprocessing.mean is not None:
        input_mean, input_std = (
            [255 * value for value in values] for values in (preprocessing.mean, preprocessing.std)
        )
    input_mean, input_std = arguments.mean_and_std(input_mean, input_std, channels)
    small = mobile(
        model,
        size=size,
        input_mean=input_mean,
        input_std=input_std,
        integer=mode == "int8",
        whole_kernels=whole_kernels,
    )
    output_name = _output_name(model)
    adds_softmax = output_name == "logits" and not logits
    if adds_softmax:
        small = keras.Model(small.inputs, keras.layers.Softmax(name="probabilities")(small.outputs[0]))
        output_name = "probabilities"
    takes_pixels = input_mean is not None or inputs.takes_pixels(model)
    if labels is not None:
        labels = _checked_labels(labels, small.output_shape, output_name)
    if mode == "int8" and calibration is None:
        raise InputError("mode int8 needs images to find the ranges with: calibration must be given")
    say, counted = _reporters(verbose)
    shape = small.input_shape[1:]
    if preprocessing is not None:
        *size, channels = shape
        preprocessing = dataclasses.replace(preprocessing, size=size, channels=channels, mean=None, std=None)
    with written_whole(path) as temporary:
        images = calibration_images(calibration, shape, takes_pixels, preprocessing, counted)
        network = _network(small, mode, output_name, images, takes_pixels, say, counted)
        if len(small.output_shape) == 2:
            # Without metadata MediaPipe refuses a file, and there is no task for a map of features.
            described = metadata.metadata(
                name=model.name,
                description=f"ConvMixer in {mode}, written by convmixer-keras {__version__}",
                input_shape=shape,
                takes_pixels=takes_pixels,
                output_name=output_name,
                labels=labels is not None,
                author=author,
                license=license,
            )
            flatbuffer.set_metadata(network, metadata.ENTRY, described)
        content = flatbuffer.serialize(network)
        content += archive.to_bytes(labels, takes_pixels, preprocessing, content)
        with open(temporary, "wb") as file:
            file.write(content)
        reference = _reference(model, counted(images, "running the Keras model"), input_mean, input_std)
        if adds_softmax:
            reference = softmax(reference)
        with streams.silence():
            classifier = runtime.Classifier(temporary)
        got = np.concatenate([classifier.outputs(image) for image in counted(images, "running the file")])
        found = agreement.check(
            got,
            reference,
            f"the {mode} file and the model",
            features=output_name == "features",
            mean_tolerance=_MEAN_TOLERANCES.get(mode),
        )
    return Report(
        size=len(content),
        images=len(images),
        largest_difference=found.difference,
        largest_output=found.largest,
        same_top1=found.same_top1,
        takes_pixels=takes_pixels,
        output_name=output_name,
    )


def _network(small, mode, output_name, images, takes_pixels, say, counted):
    """Returns a `mobile` model as the flatbuffer's object, in its mode."""
    say("converting the network")
    with streams.silence():
        network = flatbuffer.read(_converted(small))
    # The calibration runs the file by its names.
    flatbuffer.name_ends(network, output_name)
    content = flatbuffer.serialize(network)
    if mode == "int8":
        ranges = quantization.ranges(content, images, takes_pixels, counted)
    if mode != "float32":
        say(f"quantising it: {mode}")
    with streams.silence():
        if mode == "dynamic":
            network = flatbuffer.read(quantization.dynamic(content))
        elif mode == "int8":
            network = flatbuffer.read(quantization.int8(content, ranges))
            if len(small.output_shape) == 2:
                # MediaPipe would take a map of features in a file of bytes for one long vector.
                flatbuffer.take_bytes(network)
    if mode in ("float16", "dynamic"):
        flatbuffer.store_as_float16(network)
    flatbuffer.name_ends(network, output_name)
    operation_versions.set_versions(network)
    return network


def _reporters(verbose):
    """Returns two functions: one prints a line, one goes through images and says how far it is."""
    if not verbose:
        return lambda text: None, lambda images, what, total=None: images
    return (
        lambda text: print(text, flush=True),
        lambda images, what, total=None: progress.shown(images, what, total, "images"),
    )


def _output_name(model):
    from convmixer_keras.models import parts

    names = {None: "features", "softmax": "probabilities", "sigmoid": "probabilities"}
    return names.get(parts.of(model).head_activation, "logits")


def _checked_labels(labels, output_shape, output_name):
    labels = [str(label) for label in labels]
    if output_name == "features":
        raise InputError("labels are the names of classes, and this model has none")
    if len(labels) != output_shape[-1]:
        raise InputError(f"labels must be {output_shape[-1]}, one for each class, got {len(labels)}")
    if any(len(label.splitlines()) > 1 or not label for label in labels):
        raise InputError("each label must be one line that is not empty")
    return labels


def _converted(small):
    """Returns the float32 file of a `mobile` model."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    image = tf.TensorSpec(small.input_shape, tf.float32, name="image")
    traced = tf.function(lambda image: small(image, training=False), input_signature=[image])
    # Without variables the converter needs no saved model, which takes most of its time.
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function())
    constant = tf.function(lambda image: frozen(image)[0], input_signature=[image]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([constant]).convert()


def _reference(model, images, mean, std):
    outputs = []
    for image in images:
        if mean is not None:
            image = (image - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        outputs.append(np.asarray(model.predict_on_batch(image[None]), np.float32))
    return np.concatenate(outputs)
