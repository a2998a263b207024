import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from convmixer_keras import augmentation
from convmixer_keras.recipes import CIFAR10, IMAGENET

PLAIN = dataclasses.replace(
    IMAGENET,
    image_size=16,
    flip=False,
    randaugment_ops=0,
    erasing_probability=0.0,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
    label_smoothing=0.0,
)


def transformed(images, labels=None, classes=10, **changes):
    """A batch after the transform of `PLAIN` with some fields changed."""
    recipe = dataclasses.replace(PLAIN, **changes)
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    transform = tf.function(augmentation.batch_transform(recipe, images.shape[-1], classes))
    out_images, out_labels = transform(tf.constant(images, tf.float32), tf.constant(labels))
    return out_images.numpy(), out_labels.numpy()


def photographs(count, side=16, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels)).astype(np.float32)


def test_nothing_happens_without_a_recipe_for_it():
    images = photographs(4)
    out, labels = transformed(images, np.array([3, 1, 4, 1]))
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(labels, np.eye(10)[[3, 1, 4, 1]])


def test_flip_mirrors_about_half():
    images = photographs(400)
    out, _ = transformed(images, flip=True)
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 150 < mirrored.sum() < 250  # five standard deviations around 200


def test_label_smoothing_by_hand():
    _, labels = transformed(photographs(1), np.array([2]), classes=4, label_smoothing=0.1)
    np.testing.assert_allclose(labels, [[0.025, 0.025, 0.925, 0.025]], rtol=1e-6)


def test_erasing_share_area_and_noise():
    grey = np.full((1000, 32, 32, 3), 77.0, np.float32)
    out, _ = transformed(grey, erasing_probability=0.25)
    changed = (out != 77).any(-1)
    erased = changed.any((1, 2))
    assert 180 < erased.sum() < 320  # five standard deviations around 250
    for mask in changed[erased]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[np.ix_(rows, columns)].all()  # one full rectangle
    assert changed[erased].mean((1, 2)).max() <= 0.36  # a third, rounded to whole pixels
    noise = (out[changed] / 255 - PLAIN.mean) / PLAIN.std
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.02)


@pytest.mark.parametrize("changes", [{"mixup_alpha": 0.5}, {"cutmix_alpha": 0.5}])
def test_mixing_keeps_images_and_labels_together(changes):
    """Images as bright as their label: a pixel's brightness then says of which label it is made."""
    labels = np.arange(40) % 2
    images = np.broadcast_to(labels[:, None, None, None] * 200.0, (40, 16, 16, 3))
    out, mixed = transformed(images, labels, classes=2, **changes)
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-5)
    assert ((mixed > 0.01) & (mixed < 0.99)).any()
    # Also where a rectangle was drawn half outside the image: keras-cv's own CutMix fails here.
    np.testing.assert_allclose(out.mean((1, 2, 3)) / 200, mixed[:, 1], atol=1e-4)
    if "cutmix_alpha" in changes:
        assert set(np.unique(out)) <= {0.0, 200.0}  # rectangles of the one or the other


def test_one_of_mixup_and_cutmix_in_each_batch():
    labels = np.arange(20) % 2
    images = np.broadcast_to(labels[:, None, None, None] * 200.0, (20, 16, 16, 3)).astype(np.float32)
    recipe = dataclasses.replace(PLAIN, mixup_alpha=0.5, cutmix_alpha=0.5, label_smoothing=0.1)
    transform = tf.function(augmentation.batch_transform(recipe, 3, 2))
    cutmix = 0
    for _ in range(60):
        out, mixed = transform(images, labels)
        np.testing.assert_allclose(mixed.numpy().sum(1), 1, rtol=1e-5)
        unsmoothed = (mixed.numpy()[:, 1] - 0.05) / 0.9
        np.testing.assert_allclose(out.numpy().mean((1, 2, 3)) / 200, unsmoothed, atol=1e-4)
        cutmix += set(np.unique(out)) <= {0.0, 200.0}
    assert 10 < cutmix < 50  # five standard deviations around 30


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_stays_in_range_and_changes_images(channels):
    images = photographs(32, side=24, channels=channels)
    out, _ = transformed(images, randaugment_ops=2, mean=(0.5,) * channels, std=(0.2,) * channels)
    assert out.shape == images.shape
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 255
    assert (out != images).any((1, 2, 3)).sum() >= 28


def test_color_jitter_stays_in_range():
    images = photographs(16)
    out, _ = transformed(images, color_jitter=0.2)
    assert out.min() >= 0
    assert out.max() <= 255
    assert 5 < np.abs(out - images).mean() < 60


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_whole_recipes_run_on_their_shapes(policy):
    keras.config.set_dtype_policy(policy)
    for recipe, side in ((CIFAR10, 32), (IMAGENET, 224)):
        classes = 10 if recipe is CIFAR10 else 1000
        out, labels = augmentation.batch_transform(recipe, 3, classes)(photographs(4, side), np.arange(4))
        assert out.shape == (4, side, side, 3)
        assert out.dtype == labels.dtype == tf.float32
        assert keras.config.dtype_policy().name == policy
        assert labels.shape == (4, classes)
        np.testing.assert_allclose(labels.numpy().sum(1), 1, rtol=1e-5)


def torchvision_rectangle(random, height, width):
    """The draw of torchvision's RandomResizedCrop(scale=(0.08, 1), ratio=(3/4, 4/3)), by hand."""
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.integers(0, height - h + 1), random.integers(0, width - w + 1), h, w
    h, w = min(height, round(width / (3 / 4))), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("height", "width"), [(200, 200), (150, 260), (30, 400)])
def test_random_rectangles_are_distributed_as_torchvisions(height, width):
    draw = tf.function(lambda: augmentation._random_rectangle((height, width), (0.08, 1.0), (3 / 4, 4 / 3)))
    random = np.random.default_rng(0)
    ours = np.array([[int(value) for value in draw()] for _ in range(3000)])
    theirs = np.array([torchvision_rectangle(random, height, width) for _ in range(3000)])
    assert (ours >= 0).all()
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width
    for column in range(4):  # Kolmogorov-Smirnov: 3000 draws each differ by 0.05 once in a thousand times.
        points = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
        shares = [(draws[:, column, None] <= points).mean(0) for draws in (ours, theirs)]
        assert np.abs(shares[0] - shares[1]).max() < 0.05


def test_random_crop_shows_a_part_of_the_image():
    """A picture whose pixels say where they are: the crop can be read off its corners."""
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    picture = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    recipe = dataclasses.replace(PLAIN, image_size=64)
    areas = []
    for _ in range(50):
        image = augmentation.random_resized_crop(picture, recipe).numpy()
        assert image.shape == (64, 64, 3)
        height, width = (image[-1, -1] - image[0, 0])[:2] * 64 / 63
        areas.append(height * width / 200**2)
    assert 0.06 < min(areas) < 0.3
    assert 0.7 < max(areas) < 1.05


def test_without_a_crop_training_sees_what_evaluation_sees():
    from convmixer_keras.preprocessing import evaluation_transform

    picture = photographs(1, 40)[0][:, :30].astype(np.uint8)
    recipe = dataclasses.replace(PLAIN, crop_area=(1.0, 1.0), crop_pct=0.9)
    ours = augmentation.random_resized_crop(picture, recipe)
    np.testing.assert_array_equal(ours, evaluation_transform(picture, 16, 0.9))
