"""tf.data pipelines: digits, any tensorflow-datasets name, or a folder of images."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from convmixer_keras import augmentation
from convmixer_keras.errors import InputError
from convmixer_keras.preprocessing import decode, evaluation_transform

VALIDATION_SPLITS = ("validation", "val", "valid", "test")
SHUFFLED_IMAGES = 16_384  # Where the whole set does not fit into memory.
DIGITS_TEST_SHARE = 0.2


class Data(NamedTuple):
    """What `load` returns.

    Attributes:
        train: Batches of float32 images (batch_size, size, size, channels), raw pixels 0..255, and float32
            labels (batch_size, classes), each row of which sums to 1. One pass is one epoch; every pass has
            another order, and the last, smaller batch is left out.
        validation: The same without augmentation, in a fixed order, with the last batch.
        class_names: The name of each class, in the order of the labels.
        train_size, validation_size: Number of images.
        channels: Number of channels.
        epoch: A `tf.Variable` that counts the passes over `train`. The order of a pass follows from the seed
            and this number alone, so that a run that goes on later sets it to where it was.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    class_names: list[str]
    train_size: int
    validation_size: int
    channels: int
    epoch: tf.Variable


class _Split(NamedTuple):
    """Undecoded examples (image, label): image is a uint8 array or the bytes of a JPEG or PNG file."""

    examples: tf.data.Dataset
    size: int
    bytes: float


class _Source(NamedTuple):
    """A data set: `read` takes the name of a split and returns a `_Split`."""

    name: str
    split_names: list[str]
    read: Callable[[str], _Split]
    class_names: list[str]
    channels: int


def load(recipe, data_dir=None):
    """Makes the training and the validation pipeline of a recipe's data set.

    Args:
        recipe: A `Recipe`. Its `dataset` is "digits" (8x8 scans in scikit-learn), a folder that holds
            SPLIT/CLASS/*.jpg or *.png, or a name that tensorflow-datasets knows. `train_split` and
            `validation_split` name the splits, for tensorflow-datasets also slices such as "train[:90%]";
            None stands for "train", and for the first there is of "validation", "val", "valid", "test".
            The recipe also says image size, batch size, augmentation, evaluation crop and seed.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.

    Returns:
        A `Data`.

    Raises:
        InputError: If there is no such data set or split, or it has no images with labels.
    """
    source = _source(recipe.dataset, data_dir)
    train = source.read(_split_name(source, recipe.train_split, ("train",)))
    validation = _validation(source, recipe)
    if recipe.batch_size > train.size:
        raise InputError(
            f"batch_size must be at most the {train.size} training images of {recipe.dataset}, "
            f"got {recipe.batch_size}"
        )
    if len(source.class_names) < 2:
        raise InputError(f"dataset {recipe.dataset} must have at least two classes, has {source.class_names}")
    for name in ("mean", "std"):
        if len(getattr(recipe, name)) not in (1, source.channels):
            raise InputError(
                f"{name} must have one value, or one for each of the {source.channels} channels of "
                f"{recipe.dataset}, got {getattr(recipe, name)}"
            )
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    return Data(
        train=_training_pipeline(source, train, recipe, epoch),
        validation=validation.images,
        class_names=validation.class_names,
        train_size=train.size,
        validation_size=validation.size,
        channels=validation.channels,
        epoch=epoch,
    )


class Validation(NamedTuple):
    """What `load_validation` returns; the fields are those of `Data`."""

    images: tf.data.Dataset
    class_names: list[str]
    size: int
    channels: int


def load_validation(recipe, data_dir=None):
    """Makes the validation pipeline alone; arguments and errors are those of `load`."""
    return _validation(_source(recipe.dataset, data_dir), recipe)


def _validation(source, recipe):
    split = source.read(_split_name(source, recipe.validation_split, VALIDATION_SPLITS))
    classes = len(source.class_names)

    def to_image(image, label):
        image = _decode(image, source.channels)
        image = evaluation_transform(image, recipe.image_size, recipe.crop_pct, recipe.interpolation)
        return image, label

    examples = split.examples.cache() if _fits_in_memory(split.bytes) else split.examples
    images = (
        examples.map(to_image, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(recipe.batch_size)
        .map(lambda images, labels: (images, augmentation.one_hot(labels, classes)))
        .apply(tf.data.experimental.assert_cardinality(-(-split.size // recipe.batch_size)))
        .prefetch(tf.data.AUTOTUNE)
    )
    return Validation(images, source.class_names, split.size, source.channels)


def _training_pipeline(source, split, recipe, epoch):
    examples, buffer = split.examples, SHUFFLED_IMAGES
    if _fits_in_memory(split.bytes):
        examples, buffer = examples.cache(), split.size

    def shuffled(epoch):
        return _shuffle(examples, buffer, recipe.seed, epoch)

    def to_image(image, label):
        return augmentation.random_resized_crop(_decode(image, source.channels), recipe), label

    batch_transform = augmentation.batch_transform(recipe, source.channels, len(source.class_names))
    return (
        tf.data.Dataset.from_tensors(0)
        .map(lambda _: epoch.assign_add(1) - 1)
        .flat_map(shuffled)
        .map(to_image, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(recipe.batch_size, drop_remainder=True)
        .map(batch_transform, num_parallel_calls=tf.data.AUTOTUNE)
        .apply(tf.data.experimental.assert_cardinality(split.size // recipe.batch_size))
        .prefetch(tf.data.AUTOTUNE)
    )


def _shuffle(examples, buffer, seed, epoch):
    """Shuffles by (seed, epoch) and nothing else.

    `Dataset.shuffle` also mixes in TensorFlow's global seed, and where that is 0 refuses an epoch that is a
    tensor.
    """
    spec = examples.element_spec
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(examples),
        buffer_size=tf.cast(buffer, tf.int64),
        seed=tf.cast(seed, tf.int64),
        seed2=epoch + 1,  # Two zeros would stand for no seed.
        output_types=[component.dtype for component in spec],
        output_shapes=[component.shape for component in spec],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, spec)


def _decode(image, channels):
    if image.dtype == tf.string:
        return decode(image, channels)
    return tf.ensure_shape(image, (None, None, channels))


def _fits_in_memory(size):
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return size < available / 4


def _source(dataset, data_dir):
    if dataset == "digits":
        return _digits()
    if os.path.isdir(os.path.expanduser(dataset)):
        return _folder(os.path.expanduser(dataset))
    return _tfds(dataset, data_dir)


def _digits():
    """scikit-learn's 1,797 scans of handwritten digits, every class split alike, always the same way."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # Grey levels are 0..16; everything in this package works in 0..255.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=DIGITS_TEST_SHARE, stratify=digits.target, random_state=0
    )
    splits = {"train": (train_x, train_y), "test": (test_x, test_y)}

    def read(split):
        x, y = splits[split]
        return _Split(tf.data.Dataset.from_tensor_slices((x, y)), len(x), x.nbytes)

    return _Source("digits", list(splits), read, [str(name) for name in digits.target_names], 1)


def _folder(root):
    """A folder SPLIT/CLASS/*.jpg or *.png."""
    import tensorflow_datasets as tfds

    builder = tfds.folder_dataset.ImageFolder(root)
    splits = {name: info for name, info in builder.info.splits.items() if info.num_examples}
    if not splits:
        raise InputError(f"{root} must hold images as SPLIT/CLASS/*.jpg or *.png, such as train/cat/1.jpg")

    def read(split):
        size = sum(
            os.path.getsize(os.path.join(folder, file))
            for folder, _, files in os.walk(os.path.join(root, split))
            for file in files
        )
        return _Split(_undecoded(builder, split), splits[split].num_examples, size)

    return _Source(root, list(splits), read, builder.info.features["label"].names, 3)


def _tfds(name, data_dir):
    """A data set of tensorflow-datasets, downloaded and prepared at its first use."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError):  # ValueError: not the form of a name
        raise InputError(
            "dataset must be digits, an existing folder with SPLIT/CLASS/*.jpg, or a name that "
            f"tensorflow-datasets knows, got {name!r}"
        ) from None
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise InputError(
            f"dataset {name} must have images with one class label each, but has {list(features)}"
        )
    try:
        builder.download_and_prepare()
    except (OSError, AssertionError, tfds.download.DownloadError) as error:  # AssertionError: by hand
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"dataset {name} cannot be downloaded and prepared: {reason}") from error
    splits = builder.info.splits

    def read(split):
        images, whole = splits[split].num_examples, splits[_without_slice(split)]
        # Files are read one after the other, so that the order of training follows from the seed alone.
        read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        return _Split(
            _undecoded(builder, split, read_config=read_config),
            images,
            whole.num_bytes * images / whole.num_examples,
        )

    channels = features["image"].shape[-1] or 3
    return _Source(name, list(splits), read, features["label"].names, channels)


def _undecoded(builder, split, **options):
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_dataset(split=split, decoders=decoders, **options)
    return examples.map(lambda example: (example["image"], example["label"]))


def _split_name(source, name, defaults):
    """Returns the name of the split to read: the one that is asked for, or the first default there is."""
    if name is None:
        name = next((default for default in defaults if default in source.split_names), defaults[0])
    if _without_slice(name) not in source.split_names:
        there = ", ".join(source.split_names)
        raise InputError(f"dataset {source.name} has no split {name!r}; it has: {there}")
    return name


def _without_slice(split):
    """Takes the slice off a tensorflow-datasets split: "train[:90%]" is part of "train"."""
    return split.split("[")[0]
