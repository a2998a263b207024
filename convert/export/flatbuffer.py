"""Changes to a `.tflite` file itself, after the converter and the quantiser.

The schema's classes, and the functions that read and write them, are ai-edge-litert's. A `model` here is a
`schema.ModelT` with one subgraph, and is changed in place.
"""

import copy

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from convmixer_keras.utils import streams
from convmixer_keras.utils.errors import InputError

SIGNATURE = "serving_default"
_RUNTIME = "min_runtime_version"


def read(content):
    """Returns the model in a file's bytes."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


class _AlignedBuffer(schema.BufferT):
    """Starts at a multiple of 16 bytes, as the schema demands."""

    def Pack(self, builder):
        builder.Prep(16, 0 if self.data is None else len(self.data))
        return super().Pack(builder)


def serialize(model):
    """Returns a model as a file's bytes, with all weights inside the flatbuffer.

    ai-edge-quantizer puts weights of more than 256 KiB behind it, where other tools cut them off.
    """
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    for place, buffer in enumerate(model.buffers):
        buffer.__class__ = _AlignedBuffer
        if place not in used:
            buffer.data = None
        if buffer.data is not None:
            # An array is copied at once, any other sequence byte by byte.
            buffer.data = np.frombuffer(bytes(buffer.data), np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def name_ends(model, output_name):
    """Names the input and the output, as tensors and in a signature."""
    (graph,) = model.subgraphs
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE.encode(), 0
    for name, tensors, places in (("image", graph.inputs, "inputs"), (output_name, graph.outputs, "outputs")):
        place = schema.TensorMapT()
        place.name, (place.tensorIndex,) = name.encode(), tensors
        graph.tensors[place.tensorIndex].name = place.name
        setattr(signature, places, [place])
    model.signatureDefs = [signature]


def before_scores(model):
    """Cuts a model before its last softmax or sigmoid, and returns it as a file's bytes."""
    (graph,) = model.subgraphs
    makes = {place: step for step in graph.operators for place in step.outputs}
    step = makes[graph.outputs[0]]
    while flatbuffer_utils.opcode_to_name(model, step.opcodeIndex) not in ("SOFTMAX", "LOGISTIC"):
        step = makes[step.inputs[0]]
    graph.outputs = step.inputs[:1]
    name_ends(model, "logits")
    return serialize(model)


def take_bytes(model):
    """Makes an integer file take uint8."""
    (graph,), (place,) = model.subgraphs, model.subgraphs[0].inputs
    # The quantiser leaves a float32 input and an operation that makes it int8. The same operation takes
    # uint8, whose values are those of int8 plus 128.
    (first,) = [step for step in graph.operators if place in step.inputs]
    if model.operatorCodes[first.opcodeIndex].builtinCode == schema.BuiltinOperator.QUANTIZE:
        image, inside = graph.tensors[place], graph.tensors[first.outputs[0]]
        image.type = schema.TensorType.UINT8
        image.quantization = copy.copy(inside.quantization)
        image.quantization.zeroPoint = np.asarray(inside.quantization.zeroPoint) + 128


def store_as_float16(model):
    """Stores every float32 weight and bias of a convolution as float16, to be made float32 when loaded.

    Weight and bias alike: LiteRT 1.1 to 1.3 do not run a float16 weight with a float32 bias, and 1.4 to 2.1
    run it slowly.
    """
    (graph,) = model.subgraphs
    steps = [
        step
        for step in graph.operators
        if flatbuffer_utils.opcode_to_name(model, step.opcodeIndex) in ("CONV_2D", "DEPTHWISE_CONV_2D")
        and graph.tensors[step.inputs[1]].type == schema.TensorType.FLOAT32
    ]
    constants = {place for step in steps for place in step.inputs[1:] if place >= 0}
    # One bias of zeros may serve several operations, also some that want it as a constant.
    elsewhere = {place for step in graph.operators if step not in steps for place in step.inputs}
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = 1
    model.operatorCodes.append(code)
    unpacking = []
    for place in sorted(constants):
        if place in elsewhere:
            graph.tensors.append(copy.copy(graph.tensors[place]))
            alone = len(graph.tensors) - 1
            for step in steps:
                step.inputs = [alone if p == place else p for p in step.inputs]
            place = alone
        unpacked = graph.tensors[place]
        packed = copy.copy(unpacked)
        packed.type, packed.name = schema.TensorType.FLOAT16, unpacked.name + b"_float16"
        values = np.frombuffer(bytes(model.buffers[packed.buffer].data), np.float32)
        if (largest := np.abs(values).max(initial=0)) > np.finfo(np.float16).max:
            raise InputError(f"a weight of {largest:.3g} is too large for float16, which ends at 65504")
        packed.buffer = len(model.buffers)
        model.buffers.append(_buffer(values.astype(np.float16)))
        unpacked.buffer = 0  # The empty one.
        step = schema.OperatorT()
        step.opcodeIndex = len(model.operatorCodes) - 1
        step.inputs, step.outputs = [len(graph.tensors)], [place]
        graph.tensors.append(packed)
        unpacking.append(step)
    graph.operators = unpacking + list(graph.operators)


def set_versions(model):
    """Sets the versions of a model's operations, and the oldest TensorFlow Lite that has them all.

    ai-edge-quantizer leaves those of float32, with which old runtimes compute something else without a word.
    TensorFlow's exporter, which knows the right ones, writes the file again for these alone.
    """
    from tensorflow.lite.python.convert import mlir_sparsify

    with streams.quiet_python():
        exported = read(mlir_sparsify(serialize(model)))
    versions = {code.builtinCode: code.version for code in exported.operatorCodes}
    for code in model.operatorCodes:
        code.version = versions[code.builtinCode]
    (buffer,) = [entry.buffer for entry in exported.metadata if entry.name == _RUNTIME.encode()]
    set_metadata(model, _RUNTIME, bytes(exported.buffers[buffer].data))


def set_metadata(model, name, content):
    """Sets an entry of the file's metadata to bytes."""
    model.metadata = [entry for entry in model.metadata or [] if entry.name != name.encode()]
    entry = schema.MetadataT()
    entry.name, entry.buffer = name.encode(), len(model.buffers)
    model.buffers.append(_buffer(np.frombuffer(content, np.uint8)))
    model.metadata.append(entry)


def _buffer(array):
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(array.tobytes(), np.uint8)
    return buffer
