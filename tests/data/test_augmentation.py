import dataclasses
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from convmixer_keras.data import augmentation, mixing, transforms
from convmixer_keras.data.draws import RECTANGLE
from convmixer_keras.data.draws import draw as draw_numbers
from convmixer_keras.images import reading
from convmixer_keras.images.preprocessing import Preprocessing
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


def draws_for(recipe, count, epoch=0, first=0):
    """The draws of `count` images that follow one another in an epoch."""
    draw = tf.function(lambda epoch, position: draw_numbers(recipe, epoch, position))
    each = [draw(tf.constant(epoch, tf.int64), tf.constant(first + i, tf.int64)) for i in range(count)]
    return {name: tf.stack([draws[name] for draws in each]) for name in each[0]}


def transformed(images, labels=None, classes=10, epoch=0, first=0, **changes):
    """A batch after the transform of `PLAIN` with some fields changed."""
    recipe = dataclasses.replace(PLAIN, batch_size=len(images), **changes)
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    transform = tf.function(augmentation.batch_transform(recipe, images.shape[-1], classes))
    draws = draws_for(recipe, len(images), epoch, first)
    out_images, out_labels = transform(tf.constant(images, tf.uint8), tf.constant(labels), draws)
    return out_images.numpy(), out_labels.numpy()


def photographs(count, side=16, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels)).astype(np.uint8)


def assert_same_distribution(ours, theirs, distance):
    """Kolmogorov-Smirnov: the greatest distance of the two cumulative distributions."""
    points = np.unique(np.concatenate([ours, theirs]))
    shares = [(np.asarray(draws)[:, None] <= points).mean(0) for draws in (ours, theirs)]
    assert np.abs(shares[0] - shares[1]).max() < distance


def test_nothing_happens_without_a_recipe_for_it():
    images = photographs(4)
    out, labels = transformed(images, np.array([3, 1, 4, 1]))
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(labels, np.eye(10)[[3, 1, 4, 1]])


def test_flip_mirrors_about_half():
    recipe = dataclasses.replace(PLAIN, crop_area=(1.0, 1.0), crop_pct=1.0, flip=True)
    images = photographs(400)
    draws = draws_for(recipe, 400)
    resize = tf.function(lambda image, draws: augmentation.resize_crop(image, recipe, draws))
    out = [resize(image, {name: draws[name][i] for name in draws}) for i, image in enumerate(images)]
    same = (np.stack(out) == images).all((1, 2, 3))
    mirrored = (np.stack(out) == images[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 150 < mirrored.sum() < 250  # five standard deviations around 200


def timm_erased(random, side):
    """The rectangle that timm's RandomErasing draws (one of a count of 1), by hand."""
    for _ in range(10):
        area = random.uniform(0.02, 1 / 3) * side * side
        ratio = np.exp(random.uniform(np.log(0.3), -np.log(0.3)))
        height, width = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if height < side and width < side:
            return random.integers(0, side - height + 1), random.integers(0, side - width + 1), height, width
    return None


def test_erasing_share_rectangles_and_noise():
    grey = np.full((1000, 32, 32, 3), 77, np.uint8)
    out, _ = transformed(grey, erasing_probability=0.25)
    changed = (out != 77).any(-1)
    erased = changed.any((1, 2))
    assert 180 < erased.sum() < 320  # five standard deviations around 250
    ours = []
    for mask in changed[erased]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[np.ix_(rows, columns)].all()  # one full rectangle
        ours.append((rows[0], columns[0], len(rows), len(columns)))
    random = np.random.default_rng(0)
    theirs = [timm_erased(random, 32) for _ in range(3000)]
    for one, other in zip(np.transpose(ours), np.transpose(theirs), strict=True):
        assert_same_distribution(one, other, 0.13)  # by chance once in a thousand times
    noise = (out[changed] / 255 - PLAIN.mean) / PLAIN.std
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.02)


def test_a_small_alpha_gives_numbers():
    """In float32, 1.6 % of the batches would be 0 / 0 at an alpha of 0.02."""
    grey = np.full((2, 4, 4, 3), 7, np.uint8)
    recipe = dataclasses.replace(PLAIN, batch_size=2, mixup_alpha=0.02)
    mix = tf.function(mixing.mixing(recipe))
    for epoch in range(300):
        epochs, positions = tf.fill([2], tf.constant(epoch, tf.int64)), tf.constant([0, 1], tf.int64)
        assert np.isfinite(mix(grey, tf.eye(2), epochs, positions)[1]).all()


@pytest.mark.parametrize("changes", [{"mixup_alpha": 0.5}, {"cutmix_alpha": 0.5}])
@pytest.mark.slow
def test_mixing_keeps_images_and_labels_together(changes):
    """Images as bright as their label: a pixel's brightness then says of which label it is made."""
    labels = np.arange(40) // 20
    images = np.broadcast_to(labels[:, None, None, None] * 200, (40, 16, 16, 3))
    shares = []
    for epoch in range(20):
        out, mixed = transformed(images, labels, classes=2, epoch=epoch, **changes)
        np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-5)
        of_second = mixed[:, 1]
        # Also where a rectangle was drawn half outside the image; mixed pixels are whole grey levels.
        np.testing.assert_allclose(out.mean((1, 2, 3)) / 200, of_second, atol=0.5 / 200 + 1e-4)
        np.testing.assert_allclose(of_second[:20], 1 - of_second[39], atol=1e-5)  # one share for the batch
        if "cutmix_alpha" in changes:
            assert set(np.unique(out)) <= {0.0, 200.0}  # rectangles of the one or the other
        shares.append(of_second[0])
    assert len(set(np.round(shares, 4))) > 10


def test_one_of_mixup_and_cutmix_in_each_batch():
    images = np.stack([np.zeros((16, 16, 1)), np.full((16, 16, 1), 200)])
    recipe = dataclasses.replace(PLAIN, mixup_alpha=0.5, cutmix_alpha=0.5, batch_size=2)
    transform = tf.function(augmentation.batch_transform(recipe, 1, 2))
    kept, cutmix = [], []
    for batch in range(400):
        draws = {
            "epoch": tf.constant([3, 3], tf.int64),
            "position": tf.constant([0, 1], tf.int64) + 2 * batch,
        }
        out, mixed = transform(tf.constant(images, tf.uint8), tf.constant([0, 1]), draws)
        np.testing.assert_allclose(out.numpy().mean((1, 2, 3)) / 200, mixed[:, 1], atol=0.003)
        cutmix.append(set(np.unique(out)) == {0.0, 200.0})
        kept.append(float(mixed[0, 0]))
    assert 150 < sum(cutmix) < 250  # five standard deviations around 200
    drawn = np.random.default_rng(0).beta(0.5, 0.5, 3000)
    assert_same_distribution(np.array(kept)[~np.array(cutmix)], drawn, 0.15)
    assert np.mean(kept) == pytest.approx(0.5, abs=0.2)


def test_workers_mix_with_one_share():
    """The batch is drawn for, not what a worker has of it."""
    images, labels = photographs(8), np.arange(8)
    recipe = dataclasses.replace(PLAIN, mixup_alpha=0.5, cutmix_alpha=0.5, batch_size=8)
    transform = augmentation.batch_transform(recipe, 3, 8)
    draws = draws_for(recipe, 8, epoch=2, first=16)
    kept = set()
    for worker in (0, 1):
        share = {name: value[worker::2] for name, value in draws.items()}
        _, mixed = transform(images[worker::2], labels[worker::2], share)
        kept.add(round(float(mixed[0, worker]), 5))
    assert len(kept) == 1


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("policy", ["timm", "torchvision"])
def test_randaugment_stays_in_range_and_changes_images(channels, policy):
    images = photographs(64, side=24, channels=channels)
    out, _ = transformed(
        images,
        randaugment_ops=2,
        randaugment_policy=policy,
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
    )
    assert out.shape == images.shape
    assert out.min() >= 0
    assert out.max() <= 255
    np.testing.assert_array_equal(out, np.round(out))
    changed = (out != images).any((1, 2, 3)).sum()
    assert 32 <= changed <= 62 if policy == "timm" else changed >= 48


def test_color_jitter_by_hand():
    """Of a grey image, brightness alone changes anything, by a factor."""
    out, _ = transformed(np.full((500, 4, 4, 3), 100, np.uint8), color_jitter=0.2)
    factors = out[:, 0, 0, 0] / 100
    assert_same_distribution(factors, np.random.default_rng(0).uniform(0.8, 1.2, 3000), 0.1)
    out, _ = transformed(photographs(16), color_jitter=0.2)
    assert out.min() >= 0
    assert out.max() <= 255
    assert 5 < np.abs(out - photographs(16)).mean() < 60


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_whole_recipes_run_on_their_shapes(policy):
    keras.config.set_dtype_policy(policy)
    for recipe, side in ((CIFAR10, 32), (IMAGENET, 224)):
        classes = 10 if recipe is CIFAR10 else 1000
        transform = augmentation.batch_transform(recipe, 3, classes)
        out, labels = transform(photographs(4, side), np.arange(4), draws_for(recipe, 4))
        assert out.shape == (4, side, side, 3)
        assert out.dtype == labels.dtype == tf.float32
        assert keras.config.dtype_policy().name == policy
        assert labels.shape == (4, classes)
        np.testing.assert_allclose(labels.numpy().sum(1), 1, rtol=1e-5)


@pytest.mark.slow
def test_draws_follow_from_seed_epoch_and_position():
    recipe = dataclasses.replace(IMAGENET, image_size=32)
    images = photographs(6, 32)
    first, _ = transformed(images, **changes_of(recipe))
    tf.random.set_seed(99)
    again, _ = transformed(images, **changes_of(recipe))
    np.testing.assert_array_equal(first, again)
    for different in ({"epoch": 1}, {"first": 6}, {"seed": 1}):
        other, _ = transformed(images, **{**changes_of(recipe), **different})
        assert (other != first).any((1, 2, 3)).sum() >= 4


def changes_of(recipe):
    names = ("randaugment_ops", "erasing_probability", "mixup_alpha", "cutmix_alpha", "image_size")
    return {name: getattr(recipe, name) for name in names}


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


@pytest.mark.parametrize(
    ("height", "width"), [pytest.param(200, 200, marks=pytest.mark.slow), (150, 260), (30, 400)]
)
def test_random_rectangles_are_distributed_as_torchvisions(height, width):
    numbers = tf.random.stateless_uniform((3000, RECTANGLE), (1, 2))
    draw = tf.function(lambda row: augmentation.crop_rectangle((height, width), PLAIN, {"crop": row}))
    random = np.random.default_rng(0)
    ours = np.array([draw(row) for row in numbers])
    theirs = np.array([torchvision_rectangle(random, height, width) for _ in range(3000)])
    assert (ours >= 0).all()
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width
    for column in range(4):  # 3000 draws each differ by 0.05 once in a thousand times.
        assert_same_distribution(ours[:, column], theirs[:, column], 0.05)


def encoded(picture, kind):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def test_crops_show_a_part_of_the_image_however_it_is_encoded():
    """A picture whose pixels say where they are: the crop can be read off its corners."""
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    picture = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    recipe = dataclasses.replace(PLAIN, image_size=64)
    jpeg, png = encoded(picture, "JPEG"), encoded(picture, "PNG")
    decode = tf.function(lambda image, draws: augmentation.decode_crop(image, 3, recipe, draws))
    draws = draws_for(recipe, 50)
    areas = []
    for i in range(50):
        draw = {name: value[i] for name, value in draws.items()}
        crop = decode(tf.constant(picture), draw).numpy()
        np.testing.assert_array_equal(decode(tf.constant(png), draw), crop)
        assert np.abs(decode(tf.constant(jpeg), draw).numpy().astype(int) - crop).max() <= 8
        # With bytes behind its end it is decoded as a whole, and cropped alike.
        assert np.abs(decode(tf.constant(jpeg + b"."), draw).numpy().astype(int) - crop).max() <= 8
        height, width = (crop[-1, -1].astype(int) - crop[0, 0])[:2] + 1
        assert crop.shape == (height, width, 3)
        resized = augmentation.resize_crop(tf.constant(crop), recipe, draw).numpy()
        assert resized.shape == (64, 64, 3)
        assert np.abs(resized[0, 0].astype(int) - crop[0, 0]).max() <= 3
        areas.append(height * width / 200**2)
    assert 0.06 < min(areas) < 0.3
    assert 0.7 < max(areas) < 1.05


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_colour_becomes_the_grey_that_pillow_makes(kind):
    """TensorFlow would take a JPEG file's own brightness, and another formula for PNG."""
    contents = encoded(photographs(1, side=24)[0], kind)
    grey = np.asarray(reading.read(contents, channels=1))[..., None]
    np.testing.assert_array_equal(transforms.decode(contents, 1), grey)
    recipe = dataclasses.replace(PLAIN, crop_area=(0.999, 0.9999), crop_ratio=(1.0, 1.0))
    draws = {name: values[0] for name, values in draws_for(recipe, 1).items()}
    np.testing.assert_array_equal(augmentation.decode_crop(tf.constant(contents), 1, recipe, draws), grey)


def test_a_crop_of_too_large_a_file_is_refused(monkeypatch):
    contents = tf.constant(encoded(photographs(1, side=24)[0], "JPEG"))
    draws = {name: values[0] for name, values in draws_for(PLAIN, 1).items()}
    monkeypatch.setattr(reading, "MOST_PIXELS", 24 * 24 - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        augmentation.decode_crop(contents, 3, PLAIN, draws)


def test_a_jpeg_that_is_cut_off_is_not_decoded_in_part():
    jpeg = encoded(photographs(1, 200)[0], "JPEG")
    for i in range(5):
        draws = {"crop": tf.random.stateless_uniform((RECTANGLE,), (i, 0))}
        with pytest.raises(tf.errors.InvalidArgumentError):
            augmentation.decode_crop(tf.constant(jpeg[:-20]), 3, PLAIN, draws)


@pytest.mark.parametrize(("side", "crop_pct"), [(16, 1.0), (16, 0.9), (40, 0.9)])
def test_without_a_crop_training_sees_what_evaluation_sees(side, crop_pct):
    picture = photographs(1, side)[0][:, : max(16, side - 10)]
    recipe = dataclasses.replace(PLAIN, crop_area=(1.0, 1.0), crop_pct=crop_pct)
    draws = {name: value[0] for name, value in draws_for(recipe, 1).items()}
    crop = augmentation.decode_crop(tf.constant(picture), 3, recipe, draws)
    ours = augmentation.resize_crop(crop, recipe, draws)
    np.testing.assert_array_equal(ours, Preprocessing(16, 3, crop_pct)(picture))
