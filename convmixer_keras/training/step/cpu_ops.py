"""Operations of a training step that TensorFlow is slow at on a CPU, computed in another way.

Measured in benchmarks/train_step.py. All take and return float32 or bfloat16, channels last, and sum in
float32.
"""

import math

import tensorflow as tf

# How many bytes of a batch to correlate at a time: they stay in a core's second-level cache.
_CHUNK_BYTES = 2**20


@tf.custom_gradient
def bias_gelu(x, bias):
    """Returns the exact GELU of `x + bias`, each way in one pass over memory, compiled by XLA.

    XLA compiles these functions alone: in one cluster with a convolution or a batch normalisation, either
    becomes several times slower on a CPU.
    """
    y = _bias_gelu(x, bias)
    y.set_shape(x.shape)

    def gradient(dy):
        dx = _bias_gelu_gradient(x, bias, dy)
        dx.set_shape(x.shape)
        return dx, tf.cast(_channel_sums(dx), bias.dtype)

    return y, gradient


@tf.function(jit_compile=True, reduce_retracing=True)
def _bias_gelu(x, bias):
    y = _sum(x, bias)
    return tf.cast(y * _normal_cdf(y), x.dtype)


@tf.function(jit_compile=True, reduce_retracing=True)
def _bias_gelu_gradient(x, bias, dy):
    y = _sum(x, bias)
    density = tf.exp(-0.5 * tf.square(y)) / math.sqrt(2 * math.pi)
    return tf.cast(tf.cast(dy, tf.float32) * (_normal_cdf(y) + y * density), x.dtype)


@tf.function(jit_compile=True, reduce_retracing=True)
def _channel_sums(x):
    return tf.reduce_sum(tf.cast(x, tf.float32), (0, 1, 2))  # TensorFlow's BiasAddGrad sums in bfloat16.


def _sum(x, bias):
    return tf.cast(x, tf.float32) + tf.cast(bias, tf.float32)


def _normal_cdf(x):
    return 0.5 * (1 + tf.math.erf(x / math.sqrt(2)))


@tf.custom_gradient
def depthwise_conv(x, kernel):
    """Returns the depthwise convolution of stride 1 and "same" padding, with a faster gradient of the kernel.

    TensorFlow hands that gradient to a convolution that computes 16 x 16 channels for each group of 16. It is
    itself a depthwise convolution, of the input with the output's gradient as the kernel, summed over the
    batch, and as such several times faster.
    """

    def gradient(dy):
        dx = tf.nn.depthwise_conv2d_backprop_input(tf.shape(x), kernel, dy, (1, 1, 1, 1), "SAME")
        dx.set_shape(x.shape)
        return dx, tf.cast(_kernel_gradient(x, dy, kernel.shape), kernel.dtype)

    return tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "SAME"), gradient


def _kernel_gradient(x, dy, shape):
    """Correlates a few images at a time and sums the results."""
    before = [(side - 1) // 2 for side in shape[:2]]
    after = [side // 2 for side in shape[:2]]
    padding = [[0, 0], *zip(before, after, strict=True), [0, 0]]

    def stacked(images):
        """One image of all, below each other, with gaps so that the kernel never sees two of them."""
        images = tf.pad(images, [[0, 0], [0, after[0]], [0, 0], [0, 0]])
        batch, height, width, channels = tf.unstack(tf.shape(images))
        return tf.cast(tf.reshape(images, (batch * height, width, channels, 1)), tf.float32)

    def add(first, total):
        inputs, gradients = (stacked(images[first : first + chunk]) for images in (x, dy))
        inputs = tf.transpose(inputs, (3, 0, 1, 2))
        part = tf.nn.depthwise_conv2d(inputs, gradients, (1, 1, 1, 1), padding)
        return first + chunk, total + tf.reshape(part, shape)

    batch, height, width, channels = tf.unstack(tf.shape(x))
    chunk = tf.maximum(1, _CHUNK_BYTES // (height * width * channels * x.dtype.size))
    return tf.while_loop(lambda first, _: first < batch, add, (0, tf.zeros(shape)))[1]
