"""What is changed in a `.tflite` file itself, after the converter and the quantiser."""

import copy

import numpy as np

SIGNATURE = "serving_default"


def with_signature(content, output_name):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(content)
    (graph,) = model.subgraphs
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE.encode(), 0
    for name, tensors, places in (
        (b"image", graph.inputs, "inputs"),
        (output_name.encode(), graph.outputs, "outputs"),
    ):
        place = schema.TensorMapT()
        place.name, (place.tensorIndex,) = name, map(int, tensors)
        setattr(signature, places, [place])
    model.signatureDefs = [signature]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_bytes_in(content):
    """Makes an integer file take uint8."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(content)
    (graph,), (place,) = model.subgraphs, model.subgraphs[0].inputs
    # The quantiser leaves a float32 input and an operation that makes it int8. The same operation takes
    # uint8, whose values are those of int8 plus 128.
    (first,) = [step for step in graph.operators if place in step.inputs]
    if model.operatorCodes[first.opcodeIndex].builtinCode == schema.BuiltinOperator.QUANTIZE:
        image, inside = graph.tensors[place], graph.tensors[first.outputs[0]]
        image.type = schema.TensorType.UINT8
        image.quantization = copy.copy(inside.quantization)
        image.quantization.zeroPoint = np.asarray(inside.quantization.zeroPoint) + 128
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
