"""Image files that cannot be decoded: reported by path, and skipped up to a limit."""

import contextlib
import re
import threading
import warnings

import tensorflow as tf

from convmixer_keras.data import transforms
from convmixer_keras.images import reading
from convmixer_keras.utils.errors import InputError, arg
from convmixer_keras.utils.files import check_file


class BadImages:
    """The files of a data set that turned out not to be readable as images.

    A file counts once, however often it is read. TensorFlow decodes; Python is called only for a file that
    fails.

    Args:
        limit: How many files may be bad. Up to that many are named by a warning each.

    Attributes:
        paths: Those that were found so far.
        error: The `InputError` that names the first file over the limit, or None. `check` and `checked`
            raise it; raised where TensorFlow decodes, it would be logged with its whole traceback.
    """

    def __init__(self, limit=0):
        self.limit = limit
        self.paths = []
        self.error = None
        self._lock = threading.Lock()  # TensorFlow decodes in several threads.

    def check(self):
        """Raises the error, if there is one."""
        if self.error:
            raise self.error

    @contextlib.contextmanager
    def checked(self):
        """Raises the error of a bad image at the end of this block, or in place of TensorFlow's own.

        So does a label that `tfdata.checked_labels` refuses.
        """
        try:
            yield
        except tf.errors.OpError as error:
            self.check()
            if refused := re.search(r"\[(labels must be .*?)\] \[(.*?)\]", str(error)):
                raise InputError(" ".join(refused.groups())) from None
            raise
        self.check()

    def decoded(self, decode, path):
        """Decodes a file; one that cannot be decoded becomes an empty image.

        Args:
            decode: Function from the path of a file to an image (height, width, channels), uint8.
            path: The path, a scalar string.

        Returns:
            What `decode` returns, or an empty image.
        """

        def again():
            readable = tf.py_function(self._check, [path], tf.bool)
            return tf.cond(readable, lambda: decode(path), lambda: zeros_like_spec(image))

        image = _or_empty(decode, path)
        return tf.cond(tf.size(image) > 0, lambda: image, again)

    def replaced(self, decode, path, label, files):
        """Decodes a file, or if it cannot be decoded the next of `files`.

        Args:
            decode, path: As for `decoded`.
            label: Scalar integer.
            files: List of all pairs (path, label).

        Returns:
            The image, and the label that belongs to it.
        """

        def of_next():
            found, label = tf.py_function(
                lambda path: self._next_readable(path, files), [path], [tf.string, tf.int64]
            )
            return decode(found), tf.ensure_shape(label, ())

        image = _or_empty(decode, path)
        return tf.cond(tf.size(image) > 0, lambda: (image, label), of_next)

    def _next_readable(self, path, files):
        if self._check(path):
            return path.numpy(), dict(files)[path.numpy().decode()]
        position = [file for file, _ in files].index(path.numpy().decode())
        for candidate, label in files[position + 1 :] + files[:position]:
            if self._check(tf.constant(candidate)):
                return candidate, label
        self.error = self.error or InputError("none of the files can be decoded as an image")
        raise self.error

    def _check(self, path):
        """Returns whether a file can be decoded after all: decoding also fails while a run is stopped."""
        try:
            transforms.decode(tf.io.read_file(path), 3)
            return True
        except tf.errors.OpError:
            self._add(path.numpy().decode())
            return False

    def _add(self, path):
        with self._lock:
            if path in self.paths:
                return
            self.paths.append(path)
            message = _what_is_wrong(path)
            if len(self.paths) > self.limit:
                self.error = self.error or InputError(
                    f"{message}, and {arg('max_bad_images')} is {self.limit}: repair it, remove it, or "
                    "raise that"
                )
                return
            warnings.warn(f"{message}; it is left out", stacklevel=2)


def _what_is_wrong(path):
    try:
        check_file(path)
    except InputError as error:  # It is gone, or may not be read.
        return str(error)
    reason = reading.why_too_large(path)
    return f"{path} cannot be decoded as an image" + (f": {reason}" if reason else "")


def map_batch(function, guarded, batch):
    """Maps the elements of a batch by `function`, and where that fails on any of them, all by `guarded`.

    A guard around each image costs several times what it takes to decode a small one, and hardly any image
    needs it.

    Args:
        function, guarded: Functions from one element to tensors of the same shapes; the first may fail.
        batch: Tuple of tensors (n, ...).

    Returns:
        What the function returned for each element, stacked: tensors (n, ...).
    """
    elements = tf.data.Dataset.from_tensor_slices(batch)
    count = tf.shape(batch[0], tf.int64)[0]
    attempt = elements.map(function).batch(count).ignore_errors()
    nothing = tf.nest.map_structure(zeros_like_spec, attempt.element_spec)
    attempt = attempt.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1).get_single_element()
    # After an error, the elements that are left make a smaller batch.
    complete = tf.shape(tf.nest.flatten(attempt)[0], tf.int64)[0] == count
    return tf.cond(complete, lambda: attempt, lambda: elements.map(guarded).batch(count).get_single_element())


def _or_empty(function, argument):
    """`function(argument)`, or an empty tensor where that fails, inside the graph."""
    attempt = tf.data.Dataset.from_tensors(argument).map(function)
    nothing = zeros_like_spec(attempt.element_spec)
    either = attempt.ignore_errors().concatenate(tf.data.Dataset.from_tensors(nothing))
    return either.take(1).get_single_element()


def zeros_like_spec(spec):
    """A tensor of zeros that fits a `tf.TensorSpec`, or a tensor's shape and dtype; free dimensions are 0."""
    return tf.zeros([side or 0 for side in spec.shape], spec.dtype)
