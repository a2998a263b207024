"""Which `tf.distribute` strategy a run takes."""

import tensorflow as tf

from convmixer_keras import checks

STRATEGIES = ("auto", "one", "mirrored")


def choose_strategy(name="auto"):
    """Returns the strategy to build and train a model under.

    Args:
        name: "one" device; "mirrored" over all GPUs of this machine, or where it has none over its logical
            CPUs; "auto" takes "mirrored" where there are several GPUs and else "one".

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        InputError: For another name.
    """
    checks.one_of("strategy", name, STRATEGIES)
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one"
    if name == "one":
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])
