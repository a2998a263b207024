"""A ConvMixer as an `.onnx` file, written from its layers. Needs no PyTorch, under any Keras backend."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.convert import agreement
from convmixer_keras.convert.export import source
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import inputs, outputs
from convmixer_keras.models import parts as anatomy
from convmixer_keras.utils import extras
from convmixer_keras.utils.errors import Failure, InputError, arg, first_line
from convmixer_keras.utils.files import Path, written_whole
from convmixer_keras.utils.version import __version__

OPSETS = range(13, 21)  # From the first whose Softmax takes one axis to the first with Gelu.
# The first opset with an operation, where it is not the first of OPSETS. Gelu is written out before.
_SINCE = {"HardSwish": 14, "LayerNormalization": 17, "Mish": 18}
_IMAGES = 4  # Random ones, to compare on.
_LOGITS = "head"  # What the classifier's scores before any activation are called in the graph.

# Keras' activations as ONNX operations; `_Graph.activation` writes those of several operations.
_ACTIVATIONS = {
    "elu": ("Elu", {"alpha": 1.0}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "hard_silu": ("HardSwish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "mish": ("Mish", {}),
    "relu": ("Relu", {}),
    "selu": ("Selu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "tanh": ("Tanh", {}),
}


class Report(NamedTuple):
    """What `export` wrote.

    Attributes:
        output: Name of the output: "probabilities", "logits" or "features".
        agreement: The `Agreement` with Keras on random images, on logits where the file gives probabilities;
            None where ONNX Runtime is not installed.
    """

    output: str
    agreement: agreement.Agreement | None


def export(
    model: keras.Model | Path,
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    size: tuple[int, int] | None = None,
    logits: bool = False,
    opset: int = OPSETS[-1],
) -> Report:
    """Writes a ConvMixer as an `.onnx` file, whole or not at all, and checks it in ONNX Runtime.

    The file takes `image`, float32 (batch, height, width, channels), exactly what the Keras model takes, with
    a free batch size, and free height and width where the model leaves them free. It gives `probabilities`
    (batch, classes), or `logits`, or `features`. GELU is the exact operation.

    Args:
        model: A ConvMixer as a `keras.Model`, or the path of a `.keras` file, whose class names and
            `Preprocessing` count where the arguments give none.
        path: The file to write, ending in ".onnx".
        class_names: Sequence of the name of each class, or None. Kept in the file's metadata as
            `class_names`, a JSON list.
        preprocessing: The `Preprocessing` that makes a photograph what the model takes, or None. Kept in the
            file's metadata as `preprocessing`, a JSON object.
        size: (height, width) of the images, in place of the model's own and of the record's; None leaves
            what the model leaves free.
        logits: Whether the scores stay as they are before a softmax or sigmoid; otherwise a classifier that
            gives logits gets a softmax (a sigmoid for a single one).
        opset: Version of ONNX's operations, 13 to 20. Runtimes that are older than 20 need a lower one, in
            which GELU is several operations.

    Returns:
        A `Report`.

    Raises:
        InputError: If the model is not such a ConvMixer, has an activation or normalisation that this opset
            does not have, or the package onnx is not installed.
        Failure: If ONNX Runtime computes something else than Keras; nothing is written.
    """
    extras.require("onnx")
    import onnx

    if not str(path).endswith(".onnx"):
        raise InputError(f"an ONNX file's name must end in .onnx, got {path}")
    if opset not in OPSETS:
        raise InputError(f"{arg('opset')} must be {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}")
    model, class_names, preprocessing = source.opened(model, class_names, preprocessing, size)
    model, output = source.scored(model, logits)
    operations = [onnx.helper.make_opsetid("", opset)]
    made = onnx.helper.make_model(
        _Graph(opset).of(model, output),
        opset_imports=operations,
        ir_version=onnx.helper.find_min_ir_version_for(operations),  # Older runtimes refuse later ones.
        producer_name="convmixer-keras",
        producer_version=__version__,
    )
    metadata = {}
    if class_names is not None:
        metadata["class_names"] = json.dumps(class_names, ensure_ascii=False)
    if preprocessing is not None:
        metadata["preprocessing"] = preprocessing.to_json()
    onnx.helper.set_model_props(made, metadata)
    onnx.checker.check_model(made, full_check=True)
    with written_whole(path) as temporary:
        onnx.save(made, temporary)
        found = _checked(model, made, temporary, output) if extras.is_installed("onnxruntime") else None
    return Report(output, found)


class _Graph:
    """Nodes and weights of an ONNX graph; methods take and return names of tensors."""

    def __init__(self, opset):
        self.opset, self.nodes, self.weights = opset, [], []

    def add(self, operation, *inputs, name, **attributes):
        import onnx

        if self.opset < _SINCE.get(operation, 0):
            raise InputError(
                f"{arg('opset')} must be at least {_SINCE[operation]} for {operation}, got {self.opset}"
            )
        self.nodes.append(onnx.helper.make_node(operation, list(inputs), [name], name, **attributes))
        return name

    def weight(self, name, array):
        import onnx

        array = np.ascontiguousarray(keras.ops.convert_to_numpy(array), np.float32)
        self.weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def of(self, model, output):
        """Returns the whole model as an `onnx.GraphProto`."""
        from onnx import TensorProto, helper

        parts = anatomy.of(model)
        if parts.image is not model.inputs[0]:
            raise InputError(f"{model.name} has layers in front of its network, which ONNX files cannot have")
        x = "image"
        if parts.mean is not None:
            x = self.add("Sub", x, self.weight("input_mean", parts.mean), name="centred")
            x = self.add("Div", x, self.weight("input_std", parts.std), name="normalised")
        x = self.add("Transpose", x, name="channels_first", perm=[0, 3, 1, 2])
        x = self.convolution(x, "stem", *parts.stem)
        for i, block in enumerate(parts.blocks):
            y = self.convolution(x, f"block{i}_depthwise", *block.depthwise)
            x = self.add("Add", x, y, name=f"block{i}_add") if block.add else y
            x = self.convolution(x, f"block{i}_pointwise", *block.pointwise)
        self.add("Identity", self.top(x, parts), name=output)

        def info(name, shape, free):
            sides = [side or word for side, word in zip(shape[1:], free, strict=False)]
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *sides])

        taken = info("image", model.inputs[0].shape, ("height", "width", "channels"))
        given = info(output, model.outputs[0].shape, ("rows", "columns", "channels"))
        return helper.make_graph(self.nodes, model.name, [taken], [given], self.weights)

    def convolution(self, x, name, layer, norm):
        """A convolution, its activation and its normalisation."""
        kernel, bias = layer.get_weights()
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        side = kernel.shape[0]
        # An even kernel reaches one place further down and to the right.
        before, after = ((side - 1) // 2, side // 2) if depthwise else (0, 0)
        x = self.add(
            "Conv",
            x,
            self.weight(f"{name}.weight", kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))),
            self.weight(f"{name}.bias", bias),
            name=name,
            kernel_shape=[side, side],
            strides=list(layer.strides),
            pads=[before, before, after, after],
            group=kernel.shape[2] if depthwise else 1,
        )
        x = self.activation(x, name, outputs.activation_of(layer))
        return self.normalization(x, f"{name}_norm", norm)

    def activation(self, x, name, kind):
        name = f"{name}_{kind}"
        if kind == "linear":
            return x
        if kind == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x, name=f"{name}_gate"), name=name)
        if kind == "relu6":
            bounds = self.weight(f"{name}.0", 0.0), self.weight(f"{name}.6", 6.0)
            return self.add("Clip", x, *bounds, name=name)
        if kind == "gelu" and self.opset < 20:  # x / 2 * (1 + erf(x / sqrt(2)))
            scaled = self.add("Mul", x, self.weight(f"{name}.scale", 0.5**0.5), name=f"{name}_scaled")
            y = self.add("Erf", scaled, name=f"{name}_erf")
            y = self.add("Add", y, self.weight(f"{name}.1", 1.0), name=f"{name}_shifted")
            half = self.add("Mul", x, self.weight(f"{name}.half", 0.5), name=f"{name}_half")
            return self.add("Mul", half, y, name=name)
        if kind not in _ACTIVATIONS:
            known = ", ".join(sorted([*_ACTIVATIONS, "linear", "relu6", "silu"]))
            raise InputError(f"ONNX has no counterpart of the activation {kind!r}; it has {known}")
        operation, attributes = _ACTIVATIONS[kind]
        return self.add(operation, x, name=name, **attributes)

    def normalization(self, x, name, layer):
        weights = [self.weight(f"{name}.{weight.name}", weight) for weight in layer.weights]
        if isinstance(layer, keras.layers.BatchNormalization):
            return self.add("BatchNormalization", x, *weights, name=name, epsilon=layer.epsilon)
        x = self.add("Transpose", x, name=f"{name}_last", perm=[0, 2, 3, 1])
        x = self.add("LayerNormalization", x, *weights, name=name, axis=-1, epsilon=layer.epsilon)
        return self.add("Transpose", x, name=f"{name}_first", perm=[0, 3, 1, 2])

    def top(self, x, parts):
        """Pooling, classifier and its activation, as far as there are any."""
        if parts.pool is None:
            return self.add("Transpose", x, name="channels_last", perm=[0, 2, 3, 1])
        x = self.add("GlobalMaxPool" if parts.pooling == "max" else "GlobalAveragePool", x, name="pool")
        x = self.add("Flatten", x, name="flat")
        if parts.head is None:
            return x
        kernel, bias = parts.head.get_weights()
        weights = self.weight("head.weight", kernel), self.weight("head.bias", bias)
        x = self.add("Gemm", x, *weights, name=_LOGITS)
        return self.activation(x, "head", parts.head_activation)


def _checked(model, made, path, output):
    """Returns the `Agreement` between a file in ONNX Runtime and Keras, on random images."""
    import onnxruntime

    def ran(file):
        try:
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            return session.run(None, {"image": images})[0]
        except Exception as error:  # Such as that memory is short.
            raise Failure(f"ONNX Runtime cannot run the file: {first_line(error)}") from None

    sizes = anatomy.of(model).sizes
    side = max(1, min(16, 1024 // sizes.patch_size)) * sizes.patch_size
    shape = [_IMAGES, *(known or side for known in model.inputs[0].shape[1:3]), sizes.channels]
    images = 255 * np.random.default_rng(0).random(shape, np.float32)
    if inputs.takes_pixels(model) is False:
        images = (images - 128) / 64
    got, unscored = ran(path), model
    if output == "probabilities":
        activation = keras.activations.get(outputs.ending(model).kind)
        unscored = outputs.logits_model(model)
        made.graph.output[0].name = _LOGITS
        logits = ran(made.SerializeToString())
        between = "ONNX Runtime's probabilities and those of its logits"
        probabilities = keras.ops.convert_to_numpy(activation(logits))
        agreement.check(got, probabilities, between, probabilities=True)
        got = logits
    expected = agreement.outputs_of(unscored, images)
    return agreement.check(got, expected, "ONNX Runtime and Keras", features=output == "features")
