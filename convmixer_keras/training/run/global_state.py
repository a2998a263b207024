"""What a run sets in the whole process, and restores afterwards: precision, seeds, determinism."""

import contextlib
import random

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism, is_op_determinism_enabled


@contextlib.contextmanager
def configured(recipe, deterministic):
    """Within this block: a recipe's precision and seed, and determinism. After it: what there was before.

    Keras draws the seed of each initializer from Python's generator.
    """
    policy, tensorflow_seed = keras.config.dtype_policy(), tf.compat.v1.get_seed(None)[0]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    was_deterministic = is_op_determinism_enabled()
    keras.config.set_dtype_policy(recipe.dtype_policy)
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    tf.random.set_seed(recipe.seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        # keras-cv's layers take the global generator, which now has to have a seed.
        tf.random.set_global_generator(tf.random.Generator.from_seed(recipe.seed))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        tf.random.set_seed(tensorflow_seed)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if deterministic and not was_deterministic:
            disable_op_determinism()
