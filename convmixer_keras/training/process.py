"""What a run sets in its process, and sets back."""

import contextlib
import random

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils import rng_utils
from tensorflow.python.eager import context
from tensorflow.python.framework import config


@contextlib.contextmanager
def configured(recipe, deterministic):
    """Within this block: a recipe's precision and seed, and determinism. After it: what there was before.

    Keras and TensorFlow have no public way to read their seeds and determinism.
    """
    policy = keras.config.dtype_policy()
    keras_seed, tensorflow_seed = rng_utils.get_random_seed(), context.global_seed()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    was_deterministic = config.is_op_determinism_enabled()
    keras.config.set_dtype_policy(recipe.dtype_policy)
    keras.utils.set_random_seed(recipe.seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        # keras-cv's layers take the global generator, which now has to have a seed.
        tf.random.set_global_generator(tf.random.Generator.from_seed(recipe.seed))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        if keras_seed is not None:
            keras.utils.set_random_seed(keras_seed)
        tf.random.set_seed(tensorflow_seed)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if deterministic and not was_deterministic:
            config.disable_op_determinism()
