"""A ConvMixer rewritten for inference: the same function in fewer and faster operations.

XNNPACK, which runs `.tflite` files on phones and desktops alike, has fast depthwise kernels of up to 25
taps, and slow ones beyond. Four things are done, all of them exact up to rounding:

* A large depthwise kernel is cut into small ones that are added up: 9x9 into three of 3x8 and one of 9x1,
  with 81 taps, none of which is counted twice or is zero.
* Depthwise kernels see at most 208 channels at a time. XNNPACK walks through all channels of one place
  before it goes on to the next place, and with 1024 channels the neighbours that both places share have
  left the first-level cache by then: 2.6 times slower per tap.
* Normalisation moves into the weights around it wherever that needs no division (`_Scaled`).
* The patch embedding reads a whole row of a patch at once, where a plain convolution would read
  three channels.
"""

from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.convert.export.depthwise import groups, split_depthwise, whole_depthwise
from convmixer_keras.convert.export.layers import (
    activated,
    affine,
    dense_convolution,
    flat,
    joined,
    numpy_weights,
    patch_rows,
    standardized,
)
from convmixer_keras.models import parts as anatomy
from convmixer_keras.utils.errors import InputError

LARGEST_KERNEL = 15


def mobile(model, *, size=None, input_mean=None, input_std=None, integer=False, whole_kernels=False):
    """Rewrites a ConvMixer for inference on a phone.

    Args:
        model: A `keras.Model` made by `convmixer_keras.ConvMixer` or a named builder, with kernels of at
            most 15x15. Its dtype policy does not matter: the result computes in float32.
        size: (height, width) of the images; needed where the model leaves them free.
        input_mean, input_std: Per channel, in units of 0..255, for a model that takes normalised
            channels: the result then takes raw pixels. Both or neither.
        integer: Whether the result will be quantised to integers throughout, for which other sizes of
            pieces are faster and fewer roundings better.
        whole_kernels: Whether convolutions keep the shapes that they have in the model, for runtimes and
            accelerators without the fast small kernels that XNNPACK has.

    Returns:
        A `keras.Model` of stock layers from float32 images (1, height, width, channels) to what `model`
        gives, to within 1e-5 of its largest value.

    Raises:
        InputError: If the model is not such a ConvMixer, or an argument does not fit it.
    """
    parts = anatomy.of(model)
    anatomy.check_finite(model)
    if parts.sizes.kernel_size > LARGEST_KERNEL:
        raise InputError(f"mobile() takes kernels of at most {LARGEST_KERNEL}, got {parts.sizes.kernel_size}")
    front, input_shape = _front(model, parts, size)
    image = keras.Input(batch_shape=(1, *input_shape), dtype="float32", name="image")
    x = image if front is None else front(image)

    x, order = _stem(x, parts, input_mean, input_std, integer, whole_kernels)
    for i in range(len(parts.blocks)):
        x = _block(x, parts, i, integer, whole_kernels, order if i == 0 else slice(None))
    return keras.Model(image, _top(x, parts, integer), name=f"{model.name}_mobile")


class _Scaled(NamedTuple):
    """Stands for `scale * tensor + shift` per channel, not computed yet.

    What comes next decides: a 1x1 convolution or the classifier takes both into its weights by
    multiplication alone; a depthwise convolution cannot take the shift, because it pads with zeros.
    """

    tensor: object
    scale: np.ndarray
    shift: np.ndarray

    def folded_into(self, kernel, bias):
        """Returns the kernel (..., in, out) and bias (out) of a layer that then takes `tensor` itself."""
        shifted = bias + (kernel * self.shift[:, None]).sum(axis=tuple(range(kernel.ndim - 1)))
        return kernel * self.scale[:, None], shifted

    def computed(self, integer, name):
        """Returns the tensor scaled and shifted."""
        return affine(self.tensor, self.scale, self.shift, integer, name)


def _front(model, parts, size):
    """Returns what stands before the network, as a model or None, and the shape of one image."""
    height, width, channels = model.inputs[0].shape[1:]
    if size is not None:
        if (height or size[0], width or size[1]) != tuple(size):
            raise InputError(f"size must be the model's own, {(height, width)}, got {tuple(size)}")
        height, width = size
    if height is None or width is None:
        raise InputError("the model leaves the image's height or width free: size must be given")
    if parts.image is model.inputs[0]:
        return None, (height, width, channels)
    return keras.Model(model.inputs[0], parts.image), (height, width, channels)


def _stem(x, parts, mean, std, integer, whole):
    """Patch embedding and its normalisation; gives a `_Scaled`, and which channel stands where in it."""
    kernel, bias = _weights(parts.stem.layer)
    channels = kernel.shape[2]
    if parts.mean is not None:
        if mean is not None:
            raise InputError(
                "the model normalises its input itself: input_mean and input_std must be left out"
            )
        mean, std = parts.mean, parts.std
    if mean is not None:
        # The embedding pads nothing, so that the shift reaches every place alike.
        mean, std = np.broadcast_to(mean, channels), np.broadcast_to(std, channels)
        kernel, bias = _Scaled(x, 1 / std, -mean / std).folded_into(kernel, bias)

    if not whole:
        x, kernel = patch_rows(x, kernel)
    if integer and parts.normalization == "batch":
        *_, mean, variance = numpy_weights(parts.stem.norm)
        sizes = np.abs(mean) + 4 * np.sqrt(variance)
        if sizes.max() > 4 * sizes.min():
            return _stem_by_size(x, kernel, bias, sizes, parts)
    return _convolved_and_normalized(
        x, kernel, bias, kernel.shape[:2], parts, parts.stem, "stem_conv"
    ), slice(None)


def _stem_by_size(x, kernel, bias, sizes, parts):
    """The patch embedding in four parts, each with channels of like sizes.

    Where a patch has few numbers, the activation makes some channels tiny, and the normalisation makes them
    as large as any other: with one scale for all channels they would be rounded away. On digits (one grey
    pixel a patch) four fifths of the error of int8 came from there.
    """
    scale, shift = _scale_and_shift(parts.stem.norm)
    order = np.argsort(sizes, kind="stable")
    outputs = []
    for n, channels in enumerate(np.array_split(order, min(4, len(order)))):
        y = dense_convolution(x, kernel[..., channels], bias[channels], kernel.shape[:2], f"stem_conv{n}")
        y = activated(y, parts.stem.layer.activation, f"stem_conv{n}_activation")
        outputs.append(affine(y, scale[channels], shift[channels], True, f"stem_conv{n}_scale"))
    return _Scaled(joined(outputs, "stem_join"), np.ones_like(scale), np.zeros_like(shift)), order


def _block(x, parts, i, integer, whole, order):
    """One block; takes and gives a `_Scaled`. Channel n of `x` is channel `order[n]` of the model."""
    name = f"block{i}"
    (layer, norm), _, pointwise = parts.blocks[i]
    kernel, bias = _weights(layer)
    activation = layer.activation
    scale, shift = _scale_and_shift(norm)
    if parts.normalization == "batch":
        kernel, bias, scale = _through_relu(kernel, bias, scale, activation, axis=2)
    kernel, bias, scale, shift = kernel[:, :, order], bias[order], scale[order], shift[order]

    slices = [slice(None)] if whole else groups(len(bias), integer)
    wholes, halves = [], []
    for g, at in enumerate(slices):
        label = f"{name}_group{g}" if len(slices) > 1 else name
        part = x.tensor if len(slices) == 1 else x.tensor[:, :, :, at]
        part = _Scaled(part, x.scale[at], x.shift[at]).computed(integer, f"{label}_scale")
        if whole:
            y = whole_depthwise(part, kernel, bias, f"{label}_depthwise")
        else:
            y = split_depthwise(part, kernel[:, :, at], bias[at], integer, f"{label}_depthwise")
        y = activated(y, activation, f"{label}_depthwise_activation")
        if parts.residual and parts.normalization == "batch":
            y = _residual(part, y, scale[at], integer, label)
        wholes.append(part)
        halves.append(y)
    y = joined(halves, f"{name}_join")
    if parts.normalization == "layer":
        # It takes all channels together.
        y = standardized(y, norm.epsilon, f"{name}_depthwise_ln")
        if parts.residual:
            y = _residual(joined(wholes, f"{name}_join_residual"), y, scale, integer, name)
    y = _Scaled(y, np.ones_like(scale) if parts.residual else scale, shift)

    kernel, bias = _weights(pointwise.layer)
    kernel, bias = y.folded_into(kernel[:, :, order], bias)
    return _convolved_and_normalized(y.tensor, kernel, bias, 1, parts, pointwise, f"{name}_pointwise")


def _residual(x, y, scale, integer, name):
    y = affine(y, scale, None, integer, f"{name}_depthwise_scale")
    return keras.layers.Add(dtype="float32", name=f"{name}_add")([x, y])


def _convolved_and_normalized(x, kernel, bias, strides, parts, convolution, name):
    """A dense convolution without padding, its activation and its normalisation; gives a `_Scaled`."""
    activation, norm = convolution.layer.activation, convolution.norm
    scale, shift = _scale_and_shift(norm)
    if parts.normalization == "batch":
        kernel, bias, scale = _through_relu(kernel, bias, scale, activation, axis=3)
    x = dense_convolution(x, kernel, bias, strides, name)
    x = activated(x, activation, f"{name}_activation")
    if parts.normalization == "layer":
        x = standardized(x, norm.epsilon, norm.name)
    return _Scaled(x, scale, shift)


def _through_relu(kernel, bias, scale, activation, axis):
    """Moves a scale from behind a ReLU before it, into the weights; returns the scale that is left.

    `s * relu(x)` is `relu(s * x)` for any s of at least 0; nothing is divided.
    """
    if activation is not keras.activations.relu or np.any(scale < 0):
        return kernel, bias, scale
    shape = [1] * kernel.ndim
    shape[axis] = -1
    return kernel * scale.reshape(shape), bias * scale, np.ones_like(scale)


def _top(x, parts, integer):
    if parts.pool is None:
        return x.computed(integer, "features")
    if parts.pooling == "max":
        # A negative scale would make the largest value the smallest.
        y = x.computed(integer, "features")
        y = keras.layers.MaxPooling2D(
            y.shape[1:3], dtype="float32", data_format="channels_last", name="pool"
        )(y)
        x = _Scaled(y, np.ones_like(x.scale), np.zeros_like(x.shift))
    else:
        average = keras.layers.GlobalAveragePooling2D(
            keepdims=True, data_format="channels_last", dtype="float32", name="pool"
        )
        x = x._replace(tensor=average(x.tensor))
    if parts.head is None:
        return flat(x.computed(integer, "features_scale"), "features_flat")
    kernel, bias = x.folded_into(*_weights(parts.head))
    # A 1x1 convolution, because runtimes before 2.17 take a fully connected layer's int8 weights to have one
    # scale for all classes.
    y = dense_convolution(x.tensor, kernel[None, None], bias, 1, "head")
    return activated(flat(y, "flat"), keras.activations.get(parts.head_activation), "head_activation")


def _weights(layer):
    """Returns kernel and bias of a layer in float64, in which everything is folded."""
    return [w.astype(np.float64) for w in numpy_weights(layer)]


def _scale_and_shift(layer):
    """Returns what a normalisation comes to at inference, per channel in float64."""
    if isinstance(layer, keras.layers.LayerNormalization):
        return [w.astype(np.float64) for w in numpy_weights(layer)]
    gamma, beta, mean, variance = (w.astype(np.float64) for w in numpy_weights(layer))
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale
