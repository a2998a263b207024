"""A faster twin of a model for training: TensorFlow's fused batch normalisation in place of Keras'.

Keras 3 composes batch normalisation from a dozen element-wise operations, which on a CPU cost more than the
convolutions around them (benchmarks/train_step.py). The twin computes the same with one fused operation. It
shares every weight with the model it was made from, so that the model itself, of stock Keras layers, is what
is saved.
"""

import keras
import tensorflow as tf


class FusedBatchNormalization(keras.layers.Layer):
    """Computes a `BatchNormalization` layer with TensorFlow's fused operation, on that layer's own weights.

    While training, the running variance takes in the unbiased variance of a batch, as PyTorch's does.

    Args:
        batch_norm: A built `keras.layers.BatchNormalization` over the last of four axes.
    """

    def __init__(self, batch_norm):
        super().__init__(name=f"{batch_norm.name}_fused", dtype=batch_norm.dtype_policy)
        self.batch_norm = batch_norm
        self.built = True

    def call(self, inputs, training=False, mask=None):  # Images have no mask, but Keras passes one on.
        layer = self.batch_norm
        training = bool(training) and layer.trainable
        no_statistics = tf.zeros(0)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(layer.gamma),
            offset=tf.convert_to_tensor(layer.beta),
            mean=no_statistics if training else tf.convert_to_tensor(layer.moving_mean),
            variance=no_statistics if training else tf.convert_to_tensor(layer.moving_variance),
            epsilon=layer.epsilon,
            is_training=training,
        )
        if training:
            keep = layer.momentum
            layer.moving_mean.assign(layer.moving_mean * keep + mean * (1 - keep))
            layer.moving_variance.assign(layer.moving_variance * keep + variance * (1 - keep))
        return outputs

    def compute_output_shape(self, input_shape):
        return input_shape


def fused_twin(model):
    """Returns a model that computes the same as `model`, faster, on the same weights.

    Args:
        model: A functional `keras.Model`. Layers other than batch normalisation are shared as they are.

    Returns:
        A functional `keras.Model` to train; `model` sees every change of the weights.
    """

    def replace(layer):
        return FusedBatchNormalization(layer) if isinstance(layer, keras.layers.BatchNormalization) else layer

    return keras.models.clone_model(model, clone_function=replace)
