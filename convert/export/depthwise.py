"""Large depthwise convolutions as sums of small ones, which XNNPACK computes in less time.

XNNPACK, which runs `.tflite` files on phones and desktops alike, has fast depthwise kernels of up to 25
taps, and slow ones beyond.
"""

import functools

import keras
import numpy as np

STATED = {"data_format": "channels_last", "dtype": "float32"}  # Whatever Keras' global settings are.

# What one piece costs in XNNPACK by the size of its microkernel, its addition to the others included;
# relative, measured on AVX-512. A piece of 10 taps costs as much as one of 25.
_PIECE_COST = {4: 0.07, 9: 0.09, 25: 0.22}
_INTEGER_PIECE_COST = {9: 0.09, 25: 0.17}

# Of 128, 208 (1024 in five) and 256 the fastest, measured on the whole network.
_GROUP_CHANNELS = 208


def weighted(layer, x, *weights):
    """Calls a layer on `x` and sets its weights, arrays of any float dtype."""
    y = layer(x)
    layer.set_weights([w.astype(np.float32) for w in weights])
    return y


def whole_depthwise(x, kernel, bias, name):
    """A "same" depthwise convolution as it is."""
    return weighted(_layer(kernel, name, padding="same"), x, kernel, bias)


def split_depthwise(x, kernel, bias, integer, name):
    """A "same" depthwise convolution as a sum of convolutions with few taps each, in int8 if `integer`."""
    sides = zip(kernel.shape[:2], x.shape[1:3], strict=True)
    (rows, up), (columns, left) = (_seen(side, size) for side, size in sides)
    kernel = kernel[rows, columns]
    y = None
    for n, (rows, columns) in enumerate(pieces(*kernel.shape[:2], integer)):
        label = f"{name}_piece{n}"
        piece = kernel[rows.start : rows.stop, columns.start : columns.stop]
        seen = _shifted(x, rows, columns, (up, left))
        if n == 0:
            y = weighted(_layer(piece, label), seen, piece, bias)
        else:
            y = y + weighted(_layer(piece, label, use_bias=False), seen, piece)
    return y


def _seen(side, size):
    """Which taps of a "same" kernel's side ever see more than padding, and how many are before the centre."""
    before, after = min((side - 1) // 2, size - 1), min(side // 2, size - 1)
    start = (side - 1) // 2 - before
    return slice(start, start + before + 1 + after), before


def _layer(kernel, name, **arguments):
    return keras.layers.DepthwiseConv2D(
        kernel.shape[:2], depthwise_initializer="zeros", name=name, **STATED, **arguments
    )


def _shifted(x, rows, columns, before):
    """Pads and crops `x` so that a piece without padding gives its share of every output place."""
    # For rows and columns, at either end; negative where a piece lies on one side of the centre.
    around = [
        (start - taps.start, taps.stop - 1 - start)
        for taps, start in zip((rows, columns), before, strict=True)
    ]
    cropping = tuple(tuple(max(-n, 0) for n in ends) for ends in around)
    padding = tuple(tuple(max(n, 0) for n in ends) for ends in around)
    if np.any(cropping):
        x = keras.layers.Cropping2D(cropping, **STATED)(x)
    if np.any(padding):
        # XNNPACK merges a layer of zeros into the convolution that follows it.
        x = keras.layers.ZeroPadding2D(padding, **STATED)(x)
    return x


def pieces(height, width, integer=False):
    """Cuts a depthwise kernel into the rectangles that XNNPACK adds up in the least time.

    Returns a list of (rows, columns), two `range`s each, that together cover every tap once.
    """
    cost = _INTEGER_PIECE_COST if integer else _PIECE_COST
    return _cheapest_cut(height, width, tuple(cost.items()))[1]


@functools.cache
def _cheapest_cut(height, width, costs):
    """Returns the cost of a height x width rectangle of taps and the pieces that it is cut into."""
    best = np.inf, []
    for largest, cost in costs:
        if height * width <= largest:
            # A tall piece reads more lines of the image at a time: 8x3 takes a tenth longer than 3x8.
            cost *= 1 + 0.01 * height
            best = min(best, (cost, [(range(height), range(width))]), key=lambda cut: cut[0])
    halves = [((n, width), (height - n, width), (n, 0)) for n in range(1, height)]
    halves += [((height, n), (height, width - n), (0, n)) for n in range(1, width)]
    for one, other, (down, right) in halves:
        cost, parts = _cheapest_cut(*one, costs)
        other_cost, others = _cheapest_cut(*other, costs)
        if cost + other_cost < best[0] - 1e-9:
            others = [
                (range(r.start + down, r.stop + down), range(c.start + right, c.stop + right))
                for r, c in others
            ]
            best = cost + other_cost, parts + others
    return best


def groups(channels, integer):
    """Cuts the channels into slices that a depthwise convolution sees at a time."""
    count = 1 if integer or channels <= 256 else -(-channels // _GROUP_CHANNELS)
    step = -(-channels // (16 * count)) * 16  # Whole vectors.
    return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]
