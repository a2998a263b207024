"""A ConvMixer in PyTorch, ONNX Runtime and OpenVINO, float32 and int8: what our files are timed against."""

import os
import warnings

import numpy as np
from timm_package import import_timm


def channels_first(images):
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


def torch_network(model, preset):
    """timm's network with a Keras model's weights."""
    import torch

    from convmixer_keras.convert.weights import to_torch

    import_timm()
    from timm.models.convmixer import ConvMixer

    activation = torch.nn.ReLU if preset.activation == "relu" else torch.nn.GELU
    sizes = (preset.hidden_dim, preset.depth, preset.kernel_size, preset.patch_size)
    network = ConvMixer(*sizes, num_classes=preset.classes, act_layer=activation).eval()
    state = to_torch.to_state_dict(model, "timm")
    network.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    return network


def write_onnx(network, image, folder):
    import torch

    path = os.path.join(folder, "network.onnx")
    with warnings.catch_warnings():
        # The newer exporter needs one more package.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(network, (torch.from_numpy(channels_first(image)),), path, dynamo=False)
    return path


def write_onnx_int8(path, calibration):
    """Static int8 as ONNX Runtime's `quantize_static` advises for x86 with VNNI, per channel for accuracy.

    Convolutions and the head alone are quantised, and not the operations of GELU one by one.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.images = iter(channels_first(calibration))

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {name: image[None]}

    import onnx

    name = onnx.load(path).graph.input[0].name
    prepared, quantised = path.replace(".onnx", "-prepared.onnx"), path.replace(".onnx", "-int8.onnx")
    quant_pre_process(path, prepared)
    quantization.quantize_static(
        prepared,
        quantised,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return quantised


def write_openvino_int8(path, calibration, activation):
    """int8 by NNCF, OpenVINO's own quantiser, with what its guide recommends for the activation."""
    import nncf
    import openvino

    images = nncf.Dataset([image[None] for image in channels_first(calibration)])
    preset = nncf.QuantizationPreset.PERFORMANCE if activation == "relu" else nncf.QuantizationPreset.MIXED
    network = openvino.Core().read_model(path)
    quantised = nncf.quantize(network, images, preset=preset, subset_size=len(calibration))
    openvino.save_model(quantised, path.replace(".onnx", "-nncf.xml"), compress_to_fp16=False)
    return path.replace(".onnx", "-nncf.xml")


def onnx_runner(path, threads):
    """Returns a function from one channels-last image to its logits; so do the others."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = [argument.name for argument in session.get_inputs()]
    return lambda image: session.run(None, {name: channels_first(image)})[0]


def openvino_runner(path, threads, precision=None):
    """With the precision that OpenVINO chooses on this CPU where none is given."""
    import openvino

    core = openvino.Core()
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        config["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
    return lambda image: request.infer([channels_first(image)])[0]


def openvino_precision():
    """Returns the name of the precision that OpenVINO computes a float32 network in, as it comes."""
    import openvino

    return openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()


def torch_runner(network, threads):
    import torch

    network = network.to(memory_format=torch.channels_last)

    def run(image):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return network(torch.from_numpy(image).movedim(-1, 1)).numpy()

    return run
