"""Weights and arithmetic of a `.tflite` file in fewer bits."""

import contextlib

from convmixer_keras.convert.export.flatbuffer import SIGNATURE
from convmixer_keras.utils import streams


def dynamic(content):
    """Gives the dense convolutions int8 weights, with a scale for each channel."""
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(content)
    work.add_dynamic_config(regex=".*", operation_name=qtyping.TFLOperationName("CONV_2D"), num_bits=8)
    return bytes(work.quantize().quantized_model)


def int8(content, ranges):
    """Makes everything int8 that can be; input and output stay float32."""
    return bytes(_int8_quantizer(content).quantize(ranges).quantized_model)


def _int8_quantizer(content):
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(content)
    for operation in qtyping.TFLOperationName:
        if operation.value in ("*", "INPUT", "OUTPUT", "SOFTMAX", "CUSTOM_OP"):
            continue
        with contextlib.suppress(ValueError):  # Not for integers: it stays float32.
            work.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
    return work


def ranges(content, images, takes_pixels, counted):
    """Returns the range of each tensor of a float32 file over images, as the quantiser takes them."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    if takes_pixels:
        # With both ends of the range in every image, a byte of the image is a pixel as it is.
        images = images.copy()
        images[:, 0, 0, 0], images[:, -1, -1, -1] = 0, 255
    recipe = recipe_manager.RecipeManager()
    with streams.silence():
        # Smallest and largest over all images. The quantiser's own `calibrate` has only a moving average,
        # which cuts off what the rarer images reach: three times the error on CIFAR-10.
        calibration = calibrator.Calibrator(content, qsv_update_func=qsv_utils.min_max_update)
        recipe.load_quantization_recipe(_int8_quantizer(content).get_quantization_recipe())
    for image in counted(images, "calibrating"):
        with streams.silence():
            calibration.calibrate({SIGNATURE: [{"image": image[None]}]}, recipe)
    return calibration.get_model_qsvs()
