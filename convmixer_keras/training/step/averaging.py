"""Validates and saves the moving averages of a model in place of its current weights."""

import keras


class SwapAverages(keras.callbacks.SwapEMAWeights):
    """`keras.callbacks.SwapEMAWeights` that swaps BatchNorm's statistics, too.

    Keras swaps by adding and subtracting, which rounds; here the weights that training continues from are bit
    for bit what they were. The optimizer is an `AdamW` of this package with `use_ema`.
    """

    def _tf_swap_variables(self, optimizer):
        for variable, average in optimizer.averaged:
            value = keras.ops.convert_to_numpy(variable)
            variable.assign(keras.ops.convert_to_numpy(average))
            average.assign(value)

    def _tf_finalize_ema_values(self, optimizer):
        """Does nothing: the checkpoint of the last epoch keeps the weights beside their averages.

        Keras overwrites one with the other there, and a run that goes on would go on from the averages.
        """
