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

from convmixer_keras.convert.export import depthwise, source
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import inputs
from convmixer_keras.models import parts as anatomy
from convmixer_keras.utils.errors import InputError, arg


def mobile(
    model: keras.Model,
    *,
    batch: int = 1,
    preprocessing: Preprocessing | None = None,
    integer: bool = False,
    whole_kernels: bool = False,
) -> keras.Model:
    """Rewrites a ConvMixer for inference on a phone.

    Args:
        model: A `keras.Model` made by `convmixer_keras.ConvMixer` or a named builder. Its dtype policy does
            not matter: the result computes in float32.
        batch: How many images the result takes at a time.
        preprocessing: The `Preprocessing` of the model, or None. Its `mean` and `std`, if it has any, become
            part of the result, which then takes raw pixels. Its size counts where the model's is open.
        integer: Whether the result will be quantised to integers throughout, for which other sizes of
            pieces are faster and fewer roundings better.
        whole_kernels: Whether convolutions keep the shapes that they have in the model, for runtimes and
            accelerators without the fast small kernels that XNNPACK has.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) to what `model` gives, to
        within 1e-5 of its largest value.

    Raises:
        InputError: If the model is not such a ConvMixer, or an argument does not fit it.
    """
    parts = anatomy.of(model)
    anatomy.check_finite(model)
    if None in model.inputs[0].shape[1:3] and preprocessing is None:
        raise InputError(f"the model leaves the size of its images open: give {arg('size')}")
    size = inputs.image_size(model, preprocessing)
    source.check_size(size, parts.sizes.patch_size)
    image = keras.Input(batch_shape=(batch, *size, parts.sizes.channels), dtype="float32", name="image")
    x = image if parts.image is model.inputs[0] else keras.Model(model.inputs[0], parts.image)(image)

    x, order = _stem(x, parts, preprocessing, integer, whole_kernels)
    for i, block in enumerate(parts.blocks):
        x = _block(x, block, f"block{i}", integer, whole_kernels, order if i == 0 else slice(None))
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
        if np.all(self.scale == 1) and not np.any(self.shift):
            return self.tensor
        if integer:
            # Weights of a convolution are quantised channel by channel, others all alike.
            return depthwise.whole_depthwise(self.tensor, self.scale[None, None, :, None], self.shift, name)
        x = self.tensor * self.scale.astype(np.float32)
        return x + self.shift.astype(np.float32) if np.any(self.shift) else x


def _stem(x, parts, preprocessing, integer, whole):
    """Patch embedding and its normalisation; gives a `_Scaled`, and which channel stands where in it."""
    kernel, bias, scale, shift = _folded(parts.stem)
    mean, std = parts.mean, parts.std
    if preprocessing is not None and preprocessing.mean is not None:
        if mean is not None:
            raise InputError(
                f"the model normalises its input itself: leave out {arg('mean')} and {arg('std')}"
            )
        mean, std = 255 * np.array(preprocessing.mean), 255 * np.array(preprocessing.std)
    if mean is not None:
        # The embedding pads nothing, so that the shift reaches every place alike.
        kernel, bias = _Scaled(x, 1 / std, -mean / std).folded_into(kernel, bias)

    if not whole:
        x, kernel = _patch_rows(x, kernel)
    if integer and parts.normalization == "batch" and np.any(scale != 1):
        *_, mean, variance = _weights(parts.stem.norm)
        sizes = np.abs(mean) + 4 * np.sqrt(variance)
        if sizes.max() > 4 * sizes.min():
            order = np.argsort(sizes, kind="stable")
            x = _stem_by_size(x, kernel, bias, scale, shift, order, parts.stem.layer.activation)
            return _Scaled(x, np.ones_like(scale), 0 * shift), order
    x = _convolution(x, kernel, bias, kernel.shape[:2], parts.stem, "stem_conv")
    return _Scaled(x, scale, shift), slice(None)


def _patch_rows(x, kernel):
    """Lays each row of a patch along the channels; returns image and kernel.

    (h, w * patch, c) and (h, w, patch * c) are the same numbers in memory: the convolution then has
    patch * c channels at each of `patch` places, and not c at patch * patch.
    """
    patch, _, channels, hidden = kernel.shape
    height, width = x.shape[1] // patch, x.shape[2] // patch
    x = x[:, : height * patch, : width * patch]
    x = keras.ops.reshape(x, (x.shape[0], height * patch, width, patch * channels))
    return x, kernel.reshape(patch, 1, patch * channels, hidden)


def _stem_by_size(x, kernel, bias, scale, shift, order, activation):
    """The patch embedding in four parts, each with channels of like sizes, which `order` sorts.

    Where a patch has few numbers, the activation makes some channels tiny, and the normalisation makes them
    as large as any other: with one scale for all channels they would be rounded away. On digits (one grey
    pixel a patch) four fifths of the error of int8 came from there.
    """
    outputs = []
    for n, at in enumerate(np.array_split(order, min(4, len(order)))):
        y = _dense_convolution(x, kernel[..., at], bias[at], kernel.shape[:2], f"stem_conv{n}")
        y = _activated(y, activation)
        outputs.append(_Scaled(y, scale[at], shift[at]).computed(True, f"stem_conv{n}_scale"))
    return _joined(outputs)


def _block(x, block, name, integer, whole, order):
    """One block; takes and gives a `_Scaled`. Channel n of `x` is channel `order[n]` of the model."""
    (layer, norm), add, pointwise = block
    kernel, bias, scale, shift = _folded(block.depthwise)
    kernel, bias, scale, shift = kernel[:, :, order], bias[order], scale[order], shift[order]

    slices = [slice(None)] if whole else depthwise.groups(len(bias), integer)
    wholes, halves = [], []
    for g, at in enumerate(slices):
        label = f"{name}_group{g}" if len(slices) > 1 else name
        part = x.tensor if len(slices) == 1 else x.tensor[:, :, :, at]
        part = _Scaled(part, x.scale[at], x.shift[at]).computed(integer, f"{label}_scale")
        if whole:
            y = depthwise.whole_depthwise(part, kernel, bias, f"{label}_depthwise")
        else:
            y = depthwise.split_depthwise(part, kernel[:, :, at], bias[at], integer, f"{label}_depthwise")
        y = _activated(y, layer.activation)
        if add and _is_batch(norm):
            y = _Scaled(y, scale[at], 0 * scale[at])
            y = part + y.computed(integer, f"{label}_depthwise_scale")
        wholes.append(part)
        halves.append(y)
    y = _joined(halves)
    if not _is_batch(norm):
        # It takes all channels together.
        y = _standardized(y, norm)
        if add:
            y = _joined(wholes) + _Scaled(y, scale, 0 * scale).computed(integer, f"{name}_depthwise_scale")
    y = _Scaled(y, np.ones_like(scale) if add else scale, shift)

    kernel, bias, scale, shift = _folded(pointwise)
    kernel, bias = y.folded_into(kernel[:, :, order], bias)
    return _Scaled(_convolution(y.tensor, kernel, bias, 1, pointwise, f"{name}_pointwise"), scale, shift)


def _convolution(x, kernel, bias, strides, convolution, name):
    """A dense convolution without padding, its activation, and a layer normalisation before its scale."""
    x = _activated(_dense_convolution(x, kernel, bias, strides, name), convolution.layer.activation)
    return x if _is_batch(convolution.norm) else _standardized(x, convolution.norm)


def _folded(convolution):
    """Returns kernel and bias of a convolution, and scale and shift of the normalisation behind it.

    `s * relu(x)` is `relu(s * x)` for any s of at least 0: such a scale moves into kernel and bias.
    """
    layer, norm = convolution
    (kernel, bias), (scale, shift) = _weights(layer), _scale_and_shift(norm)
    if _is_batch(norm) and layer.activation is keras.activations.relu and np.all(scale >= 0):
        is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernel, bias = kernel * (scale[:, None] if is_depthwise else scale), bias * scale
        scale = np.ones_like(scale)
    return kernel, bias, scale, shift


def _top(x, parts, integer):
    if parts.pool is None:
        return x.computed(integer, "features")
    if parts.pooling == "max":
        # A negative scale would make the largest value the smallest.
        y = x.computed(integer, "features")
        y = keras.layers.MaxPooling2D(y.shape[1:3], **depthwise.STATED)(y)
        x = _Scaled(y, np.ones_like(x.scale), 0 * x.shift)
    else:
        pool = keras.layers.GlobalAveragePooling2D(keepdims=True, **depthwise.STATED)
        x = x._replace(tensor=pool(x.tensor))
    if parts.head is None:
        return keras.ops.reshape(x.computed(integer, "features_scale"), (x.tensor.shape[0], -1))
    kernel, bias = x.folded_into(*_weights(parts.head))
    # A 1x1 convolution, because runtimes before 2.17 take a fully connected layer's int8 weights to have one
    # scale for all classes.
    y = _dense_convolution(x.tensor, kernel[None, None], bias, 1, "head")
    y = keras.ops.reshape(y, (y.shape[0], -1))
    return _activated(y, keras.activations.get(parts.head_activation))


def _weights(layer):
    """Returns a layer's weights in float64."""
    return [keras.ops.convert_to_numpy(w).astype(np.float64) for w in layer.weights]


def _is_batch(norm):
    return isinstance(norm, keras.layers.BatchNormalization)


def _scale_and_shift(norm):
    """Returns what a normalisation comes to at inference, per channel."""
    if not _is_batch(norm):
        return _weights(norm)
    gamma, beta, mean, variance = _weights(norm)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def _dense_convolution(x, kernel, bias, strides, name):
    """A convolution without padding or activation, its kernel (height, width, in, out)."""
    layer = keras.layers.Conv2D(
        len(bias), kernel.shape[:2], strides, kernel_initializer="zeros", name=name, **depthwise.STATED
    )
    return depthwise.weighted(layer, x, kernel, bias)


def _activated(x, activation):
    if activation is keras.activations.linear:
        return x
    return keras.layers.Activation(activation, dtype="float32")(x)


def _standardized(x, norm):
    """Layer normalisation without its scale and shift."""
    plain = {"center": False, "scale": False, "dtype": "float32"}
    return keras.layers.LayerNormalization(epsilon=norm.epsilon, **plain)(x)


def _joined(parts):
    """Concatenates tensors along their channels."""
    while len(parts) > 1:  # XNNPACK takes five at a time.
        parts = [keras.ops.concatenate(parts[n : n + 5], axis=-1) for n in range(0, len(parts), 5)]
    return parts[0]
