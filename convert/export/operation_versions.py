"""Which version of an operation a `.tflite` file needs, so that a runtime too old for it refuses the file.

The converter writes this for float32, and ai-edge-quantizer leaves it as it is. Versions, and the first
TensorFlow Lite that has them, are from LiteRT's op_version.cc and runtime_version.cc.
"""

from convmixer_keras.convert.export import flatbuffer

_RUNTIME = "min_runtime_version"

# Operations on int8, where they have a version of their own.
_INT8 = {
    "ADD": (2, "1.14.0"),
    "CONCATENATION": (2, "1.14.0"),
    "CONV_2D": (3, "1.14.0"),
    "DEPTHWISE_CONV_2D": (3, "1.14.0"),
    "DEQUANTIZE": (2, "1.14.0"),
    "GELU": (2, "2.9.0"),
    "LOGISTIC": (2, "1.14.0"),
    "MAX_POOL_2D": (2, "1.14.0"),
    "MEAN": (2, "1.14.0"),
    "MUL": (3, "1.15.0"),
    "PAD": (2, "1.14.0"),
    "RELU": (2, "2.1.0"),
    "RELU6": (2, "1.14.0"),
    "RSQRT": (2, "2.5.0"),
    "SELECT_V2": (1, "2.2.0"),
    "SQRT": (2, "2.21.0"),
    "SQUARED_DIFFERENCE": (2, "2.5.0"),
    "STRIDED_SLICE": (2, "1.14.0"),
    "SUB": (2, "1.14.0"),
    "SUM": (2, "1.15.0"),
    "TANH": (2, "1.14.0"),
}
# A convolution of float32 with int8 weights that have a scale for each channel.
_DYNAMIC = {"CONV_2D": (5, "2.4.0")}
# Unpacking float16.
_FLOAT16 = {"DEQUANTIZE": (3, "1.15.0")}


def set_versions(model):
    """Sets the versions of a model's operations, and the oldest TensorFlow Lite that has them all."""
    from ai_edge_litert import schema_py_generated as schema

    (graph,), operations = model.subgraphs, flatbuffer.names(model)
    runtime = flatbuffer.metadata(model, _RUNTIME).rstrip(b"\0").decode()
    for step in graph.operators:
        name = operations[step.opcodeIndex]
        types = [graph.tensors[place].type for place in step.inputs if place >= 0]
        if types[0] == schema.TensorType.INT8:
            needed = _INT8
        elif types[0] == schema.TensorType.FLOAT16:
            needed = _FLOAT16
        elif schema.TensorType.INT8 in types[1:]:
            needed = _DYNAMIC
        else:
            continue
        version, since = needed.get(name, (1, "1.14.0"))
        code = model.operatorCodes[step.opcodeIndex]
        code.version = max(code.version, version)
        runtime = max(runtime, since, key=lambda text: tuple(map(int, text.split("."))))
    flatbuffer.set_metadata(model, _RUNTIME, runtime.encode().ljust(16, b"\0"))
