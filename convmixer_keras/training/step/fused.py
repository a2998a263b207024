"""A faster twin of a model for training.

Keras 3 composes batch normalisation from a dozen element-wise operations, which on a CPU cost more than the
convolutions around them (benchmarks/train_step.py). The twin computes the same with TensorFlow's fused
operation, and on a CPU the convolutions with those of cpu_ops.py. It shares every weight with the model it
was made from, so that the model itself, of stock Keras layers, is what is saved.
"""

import keras
import tensorflow as tf

from convmixer_keras.training.step import cpu_ops, replicas
from convmixer_keras.utils import checks


class FusedBatchNormalization(keras.layers.Layer):
    """Computes a `BatchNormalization` layer with TensorFlow's fused operation, on that layer's own weights.

    Mean and variance are those of the images of all replicas together, of each replica's own, or the running
    ones: "global", "replica" or "kept", a recipe's `batch_norm_statistics`. While training, the running
    variance takes in the unbiased variance of a batch, as PyTorch's does. With `keeps_statistics` a call
    leaves both in `statistics`, for a training step that averages them over replicas and calls `update`.
    """

    def __init__(self, batch_norm, statistics_of="global"):
        super().__init__(name=f"{batch_norm.name}_fused", dtype=batch_norm.dtype_policy)
        self.batch_norm = batch_norm
        self.statistics_of = statistics_of
        self.keeps_statistics = False
        self.statistics = ()
        self.built = True

    def call(self, inputs, training=False, mask=None):  # Images have no mask, but Keras passes one on.
        layer = self.batch_norm
        parameters = tf.convert_to_tensor(layer.gamma), tf.convert_to_tensor(layer.beta), layer.epsilon
        if not (training and layer.trainable) or self.statistics_of == "kept":
            return _batch_norm(inputs, *parameters, layer.moving_mean, layer.moving_variance)[0]
        together = self.statistics_of == "global" and replicas.count() > 1
        normalize = _batch_norm_over_replicas if together else _batch_norm
        outputs, mean, variance = normalize(inputs, *parameters)
        if self.keeps_statistics:
            self.statistics = (mean, variance)
        else:
            self.update(mean, variance)
        return outputs

    def update(self, mean, variance):
        """Moves the running statistics towards those of a batch, tensors (channels,).

        Channels whose variance overflows are left as they are: an infinite running variance would stay.
        """
        layer = self.batch_norm
        keep = tf.where(tf.math.is_finite(mean + variance), layer.momentum, 1.0)
        for running, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            running.assign(running * keep + tf.math.multiply_no_nan(value, 1 - keep))

    def compute_output_shape(self, input_shape):
        return input_shape


def _batch_norm(x, gamma, beta, epsilon, mean=None, variance=None):
    """Returns outputs, mean and unbiased variance; those of `x` where none are given."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=tf.zeros(0) if mean is None else tf.convert_to_tensor(mean),
        variance=tf.zeros(0) if variance is None else tf.convert_to_tensor(variance),
        epsilon=epsilon,
        is_training=mean is None,
    )[:3]


def _batch_norm_over_replicas(x, gamma, beta, epsilon):
    """As `_batch_norm` for the batch of all replicas together, each of which has a part of equal size.

    There is one exchange each way. Ioffe and Szegedy, "Batch Normalization", section 3: with
    `g = gamma / sqrt(variance + epsilon)` and `y` for `x` normalized, the gradient is `g * dy`, as for fixed
    moments, less `g * (mean(dy) + y * mean(dy * y))`. The latter is linear in `y`, so a batch normalisation
    computes it.
    """
    size = tf.cast(tf.size(x) / tf.shape(x)[-1] * replicas.count(), tf.float32)

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        mean, variance = replicas.moments(*_batch_norm(x, gamma, beta, epsilon)[1:], size)
        outputs = _batch_norm(x, gamma, beta, epsilon, mean, variance)[0]

        def gradient(dy, *_):
            dx, dgamma, dbeta = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros(0),
                epsilon=epsilon,
                is_training=False,
            )[:3]
            slope, shift = replicas.total([dgamma, dbeta])
            factor = -gamma * tf.math.rsqrt(variance + epsilon) / size
            dx += _batch_norm(x, factor * slope, factor * shift, epsilon, mean, variance)[0]
            return dx, dgamma, dbeta

        return (outputs, mean, variance * size / (size - 1)), gradient

    outputs, mean, variance = normalize(x, gamma, beta)
    outputs.set_shape(x.shape)
    return outputs, mean, variance


class FusedConvolution(keras.layers.Layer):
    """Computes a convolution with its bias and activation by `cpu_ops`, on that layer's own weights."""

    def __init__(self, convolution):
        super().__init__(name=f"{convolution.name}_fused", dtype=convolution.dtype_policy)
        self.convolution = convolution
        self.built = True

    def call(self, inputs):
        layer = self.convolution
        kernel, bias = tf.convert_to_tensor(layer.kernel), tf.convert_to_tensor(layer.bias)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            outputs = cpu_ops.depthwise_conv(inputs, kernel)
        else:
            outputs = layer.convolution_op(inputs, kernel)
        if layer.activation is keras.activations.gelu:
            return cpu_ops.bias_gelu(outputs, bias)
        return layer.activation(tf.nn.bias_add(outputs, bias))

    def compute_output_shape(self, input_shape):
        return self.convolution.compute_output_shape(input_shape)


def faster_on_cpu(layer):
    """Whether `cpu_ops` has what computes this layer, and this machine trains on its CPU."""
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    if not isinstance(layer, convolutions) or not tf.test.is_built_with_xla():
        return False
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return False
    if (
        not layer.use_bias
        or layer.compute_dtype not in ("float32", "bfloat16")
        or layer.data_format != "channels_last"
    ):
        return False
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        plain = (layer.strides, layer.dilation_rate, layer.depth_multiplier) == ((1, 1), (1, 1), 1)
        return plain and layer.padding == "same"
    return layer.activation is keras.activations.gelu


def _can_be_fused(layer):
    """Whether TensorFlow's fused operation computes this `BatchNormalization`: of maps, channels last."""
    is_of_maps = layer.input_spec.ndim == 4 and layer.axis in (-1, 3)
    return is_of_maps and layer.center and layer.scale and not getattr(layer, "renorm", False)


def fused_twin(model: keras.Model, statistics_of: str = "global") -> keras.Model:
    """Returns a model that computes the same as `model`, faster, on the same weights.

    Args:
        model: A functional `keras.Model`. Layers other than convolutions and batch normalisation of maps,
            channels last, are shared as they are.
        statistics_of: As for `FusedBatchNormalization`.

    Returns:
        A functional `keras.Model` to train; `model` sees every change of the weights.

    Raises:
        InputError: If Keras has another backend than TensorFlow.
    """
    checks.tensorflow_backend("fused_twin")

    def replace(layer):
        if isinstance(layer, keras.layers.BatchNormalization) and _can_be_fused(layer):
            return FusedBatchNormalization(layer, statistics_of)
        return FusedConvolution(layer) if faster_on_cpu(layer) else layer

    return keras.models.clone_model(model, clone_function=replace)
