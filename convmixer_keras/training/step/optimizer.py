"""The authors' optimizer: PyTorch's AdamW, and their learning rate schedule."""

import keras

from convmixer_keras.recipes import Recipe

STATISTICS = ("moving_mean", "moving_variance")  # Keras' names of BatchNorm's.


@keras.saving.register_keras_serializable("convmixer_keras")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """The authors' schedule: up to the peak, down to a twentieth of it, down to 0.

    Linear between 0 at the start, `peak` at 2/5, `peak` / 20 at 4/5 and 0 at the end, counted after each step
    as in the authors' CIFAR-10 script, so that the first step already learns.
    """

    def __init__(self, peak, total_steps):
        self.peak = peak
        self.total_steps = total_steps

    def __call__(self, step):
        done = (keras.ops.cast(step, "float32") + 1) / self.total_steps
        rise = done / 0.4
        fall = 1 - (done - 0.4) / 0.4 * 0.95
        end = (1 - done) / 0.2 * 0.05
        share = keras.ops.where(done < 0.4, rise, keras.ops.where(done < 0.8, fall, end))
        return self.peak * keras.ops.maximum(share, 0.0)

    def get_config(self):
        return {"peak": self.peak, "total_steps": self.total_steps}


@keras.saving.register_keras_serializable("convmixer_keras")
class AdamW(keras.optimizers.AdamW):
    """AdamW with epsilon where PyTorch has it: added to sqrt(v / (1 - beta_2^t)).

    Keras adds it to sqrt(v) and corrects the bias afterwards, which multiplies epsilon by
    1 / sqrt(1 - beta_2^t), 32 at the first step. The authors' 1e-3 is large enough for that to matter.

    Args:
        learning_rate: A number or schedule.
        gradients_are_summed: Whether the training step sums the gradients of all replicas before they come
            here, so that clipping acts on the sum, as `step.TrainingModel` does. Keras clips the
            gradient of each replica, and sums afterwards.
        **options: Those of `keras.optimizers.AdamW`.

    Attributes:
        statistics: Variables of the model that are averaged beside its weights where `use_ema` is set, which
            Keras leaves out: BatchNorm's running mean and variance. Averaged weights need averaged
            statistics; timm averages them, too. Set it before the optimizer is built.
    """

    statistics = ()

    def __init__(self, learning_rate=0.001, *, gradients_are_summed=False, **options):
        super().__init__(learning_rate, **options)
        self.gradients_are_summed = gradients_are_summed

    def update_step(self, gradient, variable, learning_rate):
        step = keras.ops.cast(self.iterations + 1, variable.dtype)
        epsilon = self.epsilon
        self.epsilon = epsilon * keras.ops.sqrt(1 - keras.ops.power(self.beta_2, step))
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = epsilon

    def _all_reduce_sum_gradients(self, grads_and_vars):
        if self.gradients_are_summed:
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def build(self, variables):
        super().build(variables)
        if self.use_ema:
            self._statistics_averages = self.add_optimizer_variables(list(self.statistics), "average")

    def _update_model_variables_moving_average(self, trainable_variables):
        """Averages over few steps at first, so that the average soon forgets the initial weights.

        The momentum of step t, counted from 0, is at most (1 + t) / (10 + t), as in TensorFlow's
        `ExponentialMovingAverage`.
        """
        step = keras.ops.cast(self.iterations, "float32")
        momentum = keras.ops.minimum(self.ema_momentum, (1 + step) / (10 + step))
        momentum = keras.ops.where(step > 0, momentum, 0.0)
        for variable, average in self.averaged:
            average.assign(momentum * average + (1 - momentum) * variable)

    @property
    def averaged(self):
        if not self.use_ema:
            return []
        variables = [*self._trainable_variables, *self.statistics]
        averages = [*self._model_variables_moving_average, *self._statistics_averages]
        return list(zip(variables, averages, strict=True))

    def get_config(self):
        return {**super().get_config(), "gradients_are_summed": self.gradients_are_summed}


def build_optimizer(
    recipe: Recipe, model: keras.Model, total_steps: int, gradients_are_summed: bool = False
) -> AdamW:
    """Builds a recipe's AdamW, with weight decay, clipping, schedule and averaging.

    Args:
        recipe: A `Recipe`.
        model: The built `keras.Model` to train.
        total_steps: Number of steps of the run.
        gradients_are_summed: See `AdamW`.
    """
    optimizer = AdamW(
        PiecewiseLinear(recipe.learning_rate, total_steps),
        weight_decay=recipe.weight_decay,
        epsilon=recipe.epsilon,
        global_clipnorm=recipe.clip_norm or None,
        use_ema=recipe.ema_momentum > 0,
        ema_momentum=recipe.ema_momentum or 0.99,  # Keras wants a number even where it averages nothing.
        gradients_are_summed=gradients_are_summed,
    )
    if recipe.ema_momentum:
        optimizer.statistics = [v for v in model.non_trainable_variables if v.name in STATISTICS]
    if recipe.decayed_weights == "kernels":
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if v.name != "kernel"])
    return optimizer
