"""The modes of a `.tflite` file: weights and arithmetic in fewer bits."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from convmixer_keras.utils import streams


class Mode(NamedTuple):
    """What a file in a mode is.

    Attributes:
        quantise: Function that gives a float32 file's bytes integers, or None.
        integers: Whether everything is computed in integers, for which images must show the ranges.
        halves: Whether float32 weights are stored as float16.
        mean_tolerance: How far the file may be from the model, as for `agreement.check`. Trained networks
            have 1e-3 in float16, 0.02 in dynamic and 0.1 in int8; random weights of a full-size network up to
            0.3 in dynamic and 0.92 in int8. A file that gives zeros has 1, one that computes something else
            about 1.4.
    """

    quantise: Callable | None = None
    integers: bool = False
    halves: bool = False
    mean_tolerance: float | None = None


def _dynamic(content, *_):
    """Gives the dense convolutions int8 weights, with a scale for each channel."""
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(content)
    work.add_dynamic_config(regex=".*", operation_name=qtyping.TFLOperationName("CONV_2D"), num_bits=8)
    with streams.quiet_python():  # Sizes and a bar.
        return bytes(work.quantize().quantized_model)


def _int8(content, images, batch, takes_pixels, counted):
    """Makes everything int8 that can be, with ranges that images show; input and output stay float32."""
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(content)
    for operation in qtyping.TFLOperationName:
        if operation.value in ("*", "INPUT", "OUTPUT", "SOFTMAX", "CUSTOM_OP"):
            continue
        with contextlib.suppress(ValueError):  # Not for integers: it stays float32.
            work.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
    if takes_pixels:
        # With both ends of the range in every image, a byte of the image is a pixel as it is.
        images = images.copy()
        images[:, 0, 0, 0], images[:, -1, -1, -1] = 0, 255
    ranges = _ranges(content, images, batch, work.get_quantization_recipe(), counted)
    with streams.quiet_python():
        return bytes(work.quantize(ranges).quantized_model)


def _ranges(content, images, batch, recipe, counted):
    """Returns the range of each tensor of a float32 file that takes `batch` images at a time."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    from convmixer_keras.convert.export.flatbuffer import SIGNATURE

    manager = recipe_manager.RecipeManager()
    with streams.quiet_python():
        # Smallest and largest over all images. The quantiser's own `calibrate` has only a moving average,
        # which cuts off what the rarer images reach: three times the error on CIFAR-10.
        calibration = calibrator.Calibrator(content, qsv_update_func=qsv_utils.min_max_update)
        manager.load_quantization_recipe(recipe)
    for first, _ in enumerate(counted(images, "calibrating")):
        if first % batch == 0:
            together = images[np.arange(first, first + batch) % len(images)]  # The first ones fill the last.
            with streams.quiet_python():
                calibration.calibrate({SIGNATURE: [{"image": together}]}, manager)
    return calibration.get_model_qsvs()


MODES = {
    # Weights and arithmetic as in the model.
    "float32": Mode(),
    # Weights of half the size; arithmetic in float32.
    "float16": Mode(halves=True, mean_tolerance=0.03),
    # The dense convolutions and the head have int8 weights and quantise what comes in as they go.
    "dynamic": Mode(_dynamic, halves=True, mean_tolerance=0.6),
    # Integers throughout, with one scale per channel of a weight. Only a softmax at the end, and activations
    # that have no integer form, are float32.
    "int8": Mode(_int8, integers=True, mean_tolerance=0.97),
}
