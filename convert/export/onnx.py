"""A ConvMixer as an `.onnx` file, written from its layers. Needs no PyTorch, under any Keras backend."""

import json
from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.models import parts as anatomy
from convmixer_keras.utils import extras
from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.files import written_whole
from convmixer_keras.utils.version import __version__

OPSET = 20  # The first with Gelu as an operation.
_IR_VERSION = 9  # The one that came with it; later ones are refused by older runtimes.
TOLERANCE = 1e-3

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
        difference: Largest difference from Keras on two random images, or None where ONNX Runtime is not
            installed.
    """

    output: str
    difference: float | None


def export(model, path, *, class_names=None, preprocessing=None, logits=False):
    """Writes a ConvMixer as an `.onnx` file, whole or not at all, and checks it in ONNX Runtime.

    The file takes `image`, float32 (batch, height, width, channels), exactly what the Keras model takes, with
    a free batch size, and free height and width where the model leaves them free. It gives `probabilities`
    (batch, classes), or `logits`, or `features`. GELU is the exact operation.

    Args:
        model: A `keras.Model` made by `convmixer_keras.ConvMixer` or a named builder.
        path: The file to write, ending in ".onnx".
        class_names: Sequence of the name of each class, or None. Kept in the file's metadata as
            `class_names`, a JSON list.
        preprocessing: The `Preprocessing` that makes a photograph what the model takes, or None. Kept in the
            file's metadata as `preprocessing`, a JSON object.
        logits: Whether the classifier's output is left as it is; otherwise one that gives logits gets a
            softmax.

    Returns:
        A `Report`.

    Raises:
        InputError: If the model is not such a ConvMixer, has an activation that ONNX does not have, or the
            package onnx is not installed.
        Failure: If ONNX Runtime computes something else than Keras.
    """
    extras.require("onnx")
    import onnx

    if not str(path).endswith(".onnx"):
        raise InputError(f"an ONNX file's name must end in .onnx, got {path}")
    graph = _Graph()
    output, shape = graph.network(model, logits)
    if class_names is not None and shape[-1:] != [len(class_names)]:
        raise InputError(f"there must be a name for each of the {shape[-1]} outputs, got {len(class_names)}")
    made = onnx.helper.make_model(
        graph.finished(model, output, shape),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="convmixer-keras",
        producer_version=__version__,
    )
    metadata = {}
    if class_names is not None:
        metadata["class_names"] = json.dumps(list(class_names), ensure_ascii=False)
    if preprocessing is not None:
        metadata["preprocessing"] = preprocessing.to_json()
    onnx.helper.set_model_props(made, metadata)
    onnx.checker.check_model(made, full_check=True)
    with written_whole(path) as temporary:
        onnx.save(made, temporary)
        difference = _difference(model, temporary, logits) if extras.is_installed("onnxruntime") else None
        if difference is not None and not difference <= TOLERANCE:
            raise Failure(f"ONNX Runtime and Keras differ by {difference:.2e}; nothing was written")
    return Report(output, difference)


class _Graph:
    """Nodes and weights of an ONNX graph; methods take and return names of tensors."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, operation, *inputs, name, **attributes):
        import onnx

        self.nodes.append(onnx.helper.make_node(operation, list(inputs), [name], name, **attributes))
        return name

    def weight(self, name, array):
        import onnx

        array = np.ascontiguousarray(keras.ops.convert_to_numpy(array), np.float32)
        self.weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def network(self, model, logits):
        """Adds the whole model; returns the output's name and its shape without the batch."""
        parts = anatomy.of(model)
        if parts.image is not model.inputs[0]:
            raise InputError(f"{model.name} has layers in front of its network, which ONNX files cannot have")
        x = "image"
        if parts.mean is not None:
            x = self.add("Sub", x, self.weight("input_mean", parts.mean), name="centred")
            x = self.add("Div", x, self.weight("input_std", parts.std), name="normalised")
        x = self.add("Transpose", x, name="channels_first", perm=[0, 3, 1, 2])
        x = self.convolution(x, *parts.stem)
        for block in parts.blocks:
            y = self.convolution(x, *block.depthwise)
            x = self.add("Add", x, y, name=block.add.name) if block.add else y
            x = self.convolution(x, *block.pointwise)
        return self.top(x, parts, model, logits)

    def convolution(self, x, layer, norm):
        """A convolution, its activation and its normalisation."""
        kernel, bias = layer.get_weights()
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        side = kernel.shape[0]
        # An even kernel reaches one place further down and to the right.
        before, after = ((side - 1) // 2, side // 2) if depthwise else (0, 0)
        name = layer.name
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
        x = self.activation(x, name, layer.activation.__name__)
        if isinstance(norm, keras.layers.BatchNormalization):
            return self.batch_normalization(x, norm)
        return self.layer_normalization(x, norm)

    def activation(self, x, name, kind):
        name = f"{name}_{kind}"
        if kind == "linear":
            return x
        if kind == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x, name=f"{name}_gate"), name=name)
        if kind == "relu6":
            return self.add(
                "Clip", x, self.weight(f"{name}.0", 0.0), self.weight(f"{name}.6", 6.0), name=name
            )
        if kind not in _ACTIVATIONS:
            known = ", ".join(sorted([*_ACTIVATIONS, "linear", "relu6", "silu"]))
            raise InputError(f"ONNX has no counterpart of the activation {kind!r}; it has {known}")
        operation, attributes = _ACTIVATIONS[kind]
        return self.add(operation, x, name=name, **attributes)

    def batch_normalization(self, x, layer):
        names = [self.weight(f"{layer.name}.{weight.name}", weight) for weight in layer.weights]
        return self.add("BatchNormalization", x, *names, name=layer.name, epsilon=layer.epsilon)

    def layer_normalization(self, x, layer):
        x = self.add("Transpose", x, name=f"{layer.name}_last", perm=[0, 2, 3, 1])
        names = [self.weight(f"{layer.name}.{weight.name}", weight) for weight in layer.weights]
        x = self.add(
            "LayerNormalization", x, *names, name=f"{layer.name}_norm", axis=-1, epsilon=layer.epsilon
        )
        return self.add("Transpose", x, name=layer.name, perm=[0, 3, 1, 2])

    def top(self, x, parts, model, logits):
        shape = list(model.outputs[0].shape[1:])
        if parts.pool is None:
            return self.add("Transpose", x, name="features", perm=[0, 2, 3, 1]), shape
        x = self.add("GlobalMaxPool" if parts.pooling == "max" else "GlobalAveragePool", x, name="pool")
        x = self.add("Flatten", x, name="features" if parts.head is None else "flat")
        if parts.head is None:
            return x, shape
        kernel, bias = parts.head.get_weights()
        x = self.add(
            "Gemm", x, self.weight("head.weight", kernel), self.weight("head.bias", bias), name="head"
        )
        kind = parts.head_activation
        if kind == "linear" and not logits:
            kind = "softmax"
        x = self.activation(x, "head", kind)
        output = "probabilities" if kind in ("softmax", "sigmoid") else "logits"
        return self.add("Identity", x, name=output), shape

    def finished(self, model, output, shape):
        from onnx import TensorProto, helper

        image = model.inputs[0].shape[1:]
        sides = [side or name for side, name in zip(image, ("height", "width", "channels"), strict=True)]
        names = ("rows", "columns", "channels")
        given = [side or name for side, name in zip(shape, names, strict=False)]
        return helper.make_graph(
            self.nodes,
            model.name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *sides])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *given])],
            self.weights,
        )


def _difference(model, path, logits):
    """Returns the largest difference between the file in ONNX Runtime and Keras, on two random images."""
    import onnxruntime

    parts = anatomy.of(model)
    height, width, channels = model.inputs[0].shape[1:]
    side = 16 * parts.sizes.patch_size
    images = np.random.default_rng(0).uniform(0, 255, (2, height or side, width or side, channels))
    if parts.mean is None:
        images = (images - 128) / 64
    images = images.astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(images, training=False)).astype(np.float64)
    if parts.head_activation == "linear" and not logits:
        expected = np.exp(expected - expected.max(-1, keepdims=True))
        expected /= expected.sum(-1, keepdims=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": images})
    return float(np.abs(found - expected).max())
