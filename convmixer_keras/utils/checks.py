"""Checks of arguments: each message names the argument, what was passed and what is allowed."""

import operator

from convmixer_keras.utils.errors import InputError, arg


def positive_int(name, value):
    """Returns `value` as an int, or raises: TypeError for a non-integer, ValueError below 1."""
    if isinstance(value, bool):
        raise TypeError(f"{arg(name)} must be a positive integer, got {value!r}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{arg(name)} must be a positive integer, got {value!r}") from None
    if value < 1:
        raise InputError(f"{arg(name)} must be a positive integer, got {value}")
    return value


def boolean(name, value):
    if not isinstance(value, bool):
        raise TypeError(f"{arg(name)} must be True or False, got {value!r}")


def one_of(name, value, allowed):
    if not isinstance(value, (str, type(None))) or value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise InputError(f"{arg(name)} must be one of {choices}, got {value!r}")


def tensorflow_backend(what):
    """Raises InputError, which says what needs TensorFlow, where Keras has another backend."""
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise InputError(
            f"{what} needs KERAS_BACKEND=tensorflow, set before Keras is imported; it is {backend}"
        )
