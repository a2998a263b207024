"""The authors' optimizer: PyTorch's AdamW, and their learning rate schedule."""

import keras


@keras.saving.register_keras_serializable("convmixer_keras")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """The authors' schedule: up to the peak, down to a twentieth of it, down to nothing.

    Linear between 0 at the start, `peak` at 2/5, `peak` / 20 at 4/5 and 0 at the end, counted after each step
    as in the authors' CIFAR-10 script, so that the first step already learns.

    Args:
        peak: The highest learning rate.
        total_steps: Number of steps of the run.
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
    """

    def __init__(self, learning_rate=0.001, *, gradients_are_summed=False, **options):
        super().__init__(learning_rate, **options)
        self.schedule = learning_rate
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

    @property
    def averages(self):
        """The variables of the moving averages, empty where none are kept."""
        return self._model_variables_moving_average if self.use_ema else []

    def get_config(self):
        return {**super().get_config(), "gradients_are_summed": self.gradients_are_summed}


def build_optimizer(recipe, model, total_steps, gradients_are_summed=False):
    """Builds a recipe's AdamW, with weight decay on kernels only, clipping, schedule and averaging.

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
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if v.name != "kernel"])
    return optimizer
