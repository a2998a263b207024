"""Weights and arithmetic of a `.tflite` file in fewer bits."""

import contextlib

from convmixer_keras.convert.flatbuffer import SIGNATURE
from convmixer_keras.utils import command_line


def float16(content):
    from ai_edge_quantizer import quantizer

    work = quantizer.Quantizer(content)
    for operation in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        _store_as_float16(work, operation)
    return bytes(work.quantize().quantized_model)


def _store_as_float16(work, operation):
    from ai_edge_quantizer import algorithm_manager, qtyping

    work.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName(operation),
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=16, dtype=qtyping.TensorDataType.FLOAT
            ),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
    )


def dynamic(content):
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(content)
    for operation in ("CONV_2D", "FULLY_CONNECTED"):
        work.add_dynamic_config(regex=".*", operation_name=qtyping.TFLOperationName(operation), num_bits=8)
    # Unpacked to float32 when the file is loaded: 3 MB less for ConvMixer-1024/20, in the same time.
    _store_as_float16(work, "DEPTHWISE_CONV_2D")
    return bytes(work.quantize().quantized_model)


def int8(content, ranges):
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
    with command_line.silence():
        # Smallest and largest over all images. The quantiser's own `calibrate` has only a moving average,
        # which cuts off what the rarer images reach: three times the error on CIFAR-10.
        calibration = calibrator.Calibrator(content, qsv_update_func=qsv_utils.min_max_update)
        recipe.load_quantization_recipe(_int8_quantizer(content).get_quantization_recipe())
    for image in counted(images, "calibrating"):
        with command_line.silence():
            calibration.calibrate({SIGNATURE: [{"image": image[None]}]}, recipe)
    return calibration.get_model_qsvs()
