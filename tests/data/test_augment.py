"""The transforms of training and of validation on anyone's own data set."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import convmixer_keras as ck
from convmixer_keras.data.training import training_batches
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils.errors import InputError

WHOLE = dataclasses.replace(ck.recipes.RECIPES["cifar10"], image_size=16, batch_size=8, epochs=2)
SMALL = dataclasses.replace(WHOLE, randaugment_ops=0)  # TensorFlow traces its operations for seconds.


def examples(count=20, side=20):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side + 3, 3)).astype(np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, np.arange(count, dtype=np.uint8) % 3))


def passes(batches, count):
    return [[tuple(part.numpy() for part in batch) for batch in batches] for _ in range(count)]


def test_batches_of_each_epoch():
    dataset = examples().apply(ck.data.augment(SMALL, classes=3))
    assert int(dataset.cardinality()) == 2
    first, second = passes(dataset, 2)
    for images, labels in first:
        assert images.shape == (8, 16, 16, 3)
        assert images.dtype == labels.dtype == np.float32
        np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
    assert len(first) == len(second) == 2
    assert np.abs(first[0][0] - second[0][0]).max() > 50  # Other draws.
    (again,) = passes(examples().apply(ck.data.augment(SMALL, classes=3)), 1)
    np.testing.assert_array_equal(first[0][0], again[0][0])


def test_examples_that_cannot_be_trained_on():
    with pytest.raises(InputError, match="batch_size must be at most 7, the number of images, got 8"):
        examples(7).apply(ck.data.augment(SMALL, classes=3))
    named = examples().map(lambda image, label: {"image": image, "label": label})
    for transform in (ck.data.augment(SMALL, 3), ck.data.validation_batches(SMALL, 3)):
        with pytest.raises(
            InputError, match=r"examples must be \(image, label\), not in batches: .* got {'image'"
        ):
            named.apply(transform)


def test_smoothed_labels_and_weights_by_hand():
    """What weighs an image is its class, as docs/data.md says, and not its smoothed label."""
    recipe = dataclasses.replace(SMALL, label_smoothing=0.1)
    options = {
        "steps": 1,
        "epoch": tf.Variable(0, dtype=tf.int64),
        "first_batch": tf.Variable(0, dtype=tf.int64),
    }
    weights = np.array([0.5, 5.0, 2.0], np.float32)
    (batch,) = training_batches(lambda _: examples(8), recipe, 3, 3, class_weights=weights, **options)
    numbers = np.arange(8) % 3
    np.testing.assert_allclose(batch[1], np.eye(3)[numbers] * 0.9 + 0.1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(batch[2], weights[numbers])


def test_files_of_images(image_folder):
    paths = [str(path) for path in sorted((image_folder / "train").glob("*/*"))]
    files = tf.data.Dataset.from_tensor_slices(paths).map(lambda path: (tf.io.read_file(path), 1))
    images, labels = next(iter(files.apply(ck.data.augment(SMALL, classes=3))))
    assert images.shape == (8, 16, 16, 3)
    assert labels.shape == (8, 3)


@pytest.mark.slow
def test_a_fit_of_ones_own(tmp_path):
    model = ck.ConvMixer(8, 1, 3, 2, classes=3, input_shape=(16, 16, 3), input_mean=120, input_std=60)
    optimizer = ck.training.build_optimizer(WHOLE, model, total_steps=4)
    ck.training.compile_model(model, optimizer, classes=3)
    history = model.fit(examples().apply(ck.data.augment(WHOLE, classes=3)), epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 4
    model.save(tmp_path / "m.keras")  # With its loss, metrics and optimizer.
    again = keras.saving.load_model(tmp_path / "m.keras")
    images = examples().apply(ck.data.validation_batches(SMALL, classes=3))
    assert again.evaluate(images, verbose=0) == model.evaluate(images, verbose=0)


def test_validation_is_pillows_and_a_runs(image_folder):
    """What `Preprocessing`, which uses Pillow, makes of each file, in order; a run takes them in its own."""
    recipe = dataclasses.replace(SMALL, crop_pct=0.8, orientation="exif", dataset=str(image_folder))
    paths = sorted((image_folder / "val").glob("*/*"))
    labels = np.repeat(np.arange(3, dtype=np.uint8), 5)
    files = tf.data.Dataset.from_tensor_slices(([str(path) for path in paths], labels))
    files = files.map(lambda path, label: (tf.io.read_file(path), label))
    batches = files.apply(ck.data.validation_batches(recipe, 3))
    assert int(batches.cardinality()) == 2
    (found, again) = passes(batches, 2)
    assert [len(images) for images, _ in found] == [8, 7]
    images, one_hot = map(np.concatenate, zip(*found, strict=True))
    prepare = Preprocessing(16, crop_pct=0.8, orientation="exif")
    np.testing.assert_array_equal(images, [prepare(path) for path in paths])
    np.testing.assert_array_equal(one_hot, np.eye(3)[labels])
    np.testing.assert_array_equal(images, np.concatenate([images for images, _ in again]))
    of_a_run, their_labels = map(np.concatenate, zip(*ck.data.load_validation(recipe).images, strict=True))
    order = [int(np.where((images == image).all((1, 2, 3)))[0][0]) for image in of_a_run]
    assert sorted(order) == list(range(15))
    np.testing.assert_array_equal(their_labels, one_hot[order])


def test_validation_of_grey_arrays():
    grey = examples().map(lambda image, label: (image[..., :1], label))
    found = np.concatenate([images for images, _ in grey.apply(ck.data.validation_batches(SMALL, 3, 1))])
    expected = [Preprocessing(16, 1, orientation="exif")(image) for image, _ in grey.as_numpy_iterator()]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("made", [ck.data.augment, ck.data.validation_batches])
def test_arguments(made):
    with pytest.raises(InputError, match="classes must be a positive integer, got 0"):
        made(SMALL, classes=0)
    for wrong in (examples().batch(4), examples().map(lambda image, label: (image, tf.one_hot(label, 3)))):
        with pytest.raises(InputError, match=r"examples must be \(image, label\), not in batches"):
            wrong.apply(made(SMALL, classes=3))


def test_labels_that_are_no_classes():
    """Labels from 1 would become rows that sum to the smoothing alone."""
    from_one = examples().map(lambda image, label: (image, label + 1))
    for made in (ck.data.augment, ck.data.validation_batches):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels must be from 0 to 2, got\] \[3\]"):
            passes(from_one.apply(made(SMALL, classes=3)), 1)
