"""What a data set is to a pipeline: its splits, and undecoded images with labels in each."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from convmixer_keras.data.tfdata import shuffle


class Split(NamedTuple):
    """Undecoded images with their labels.

    Attributes:
        examples: A `tf.data.Dataset` of (image, label), always in the same order: a uint8 array, the bytes of
            a JPEG or PNG file, or its path.
        size: Number of images.
        shuffled: Function from seed and epoch, which may be tensors, to the same examples in an order that
            follows from these two and nothing else.
        fingerprint: A text that differs where the images do, as far as their names and sizes tell.
        files: List of all pairs (path, label) where images are paths, as those of a folder; else None.
    """

    examples: tf.data.Dataset
    size: int
    shuffled: Callable
    fingerprint: str
    files: list[tuple[str, int]] | None = None

    def named_images(self, numbers):
        """Returns a dictionary from some examples' numbers, from 0, to the name and the image of each.

        An image is a path, the bytes of a file, or an array.
        """
        if self.files:
            return {i: (self.files[i][0], self.files[i][0]) for i in numbers}
        images = enumerate(self.examples.take(max(numbers, default=-1) + 1).as_numpy_iterator())
        return {i: (f"image {i}", image) for i, (image, _) in images if i in numbers}

    def without(self, paths):
        """Returns the split without some of its files."""
        if not self.files or not paths:
            return self
        files = [file for file in self.files if file[0] not in paths]
        return of_files(files, self.fingerprint) if files else self._replace(size=0, files=[])


class Source(NamedTuple):
    """A data set.

    Attributes:
        read: Function from the name of a split to a `Split`.
        parts: Function from the name of a split, or of a part of one, to a list of (split, first image,
            image after the last).
    """

    name: str
    split_names: list[str]
    read: Callable[[str], Split]
    parts: Callable[[str], list[tuple[str, int, int]]]
    class_names: list[str]
    channels: int


def of_files(files, fingerprint):
    """The `Split` of a list of pairs (path, label)."""
    paths = tf.constant([path for path, _ in files])
    labels = tf.constant([label for _, label in files], tf.int64)
    places = tf.data.Dataset.range(len(files))  # Shuffled in place of a million paths, for its memory.

    def example(place):
        return tf.gather(paths, place), tf.gather(labels, place)

    def shuffled(seed, epoch):
        return shuffle(places, len(files), seed, epoch).map(example)

    return Split(places.map(example), len(files), shuffled, fingerprint, files)
