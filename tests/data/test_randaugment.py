"""Each operation against Pillow's, and the draws against timm's and torchvision's."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from convmixer_keras.data import randaugment
from convmixer_keras.recipes import CIFAR10_FAST, IMAGENET

FILL = (124, 116, 104)


def affine(*matrix):
    return lambda image, _: image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL
    )


def posterize(image, bits):
    # Pillow 12 refuses to keep none, which earlier ones made black.
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)


def solarize_add(image, addition):
    return image.point([min(255, i + addition) if i < 128 else i for i in range(256)] * 3)


PILLOW = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Rotate": lambda image, degrees: image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=FILL),
    "Posterize": lambda image, bits: posterize(image, int(bits)),
    "Solarize": lambda image, threshold: ImageOps.solarize(image, threshold),
    "SolarizeAdd": lambda image, addition: solarize_add(image, int(addition)),
    "Color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "Contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "Brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "Sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "ShearX": lambda image, slope: affine(1, slope, 0, 0, 1, 0)(image, None),
    "ShearY": lambda image, slope: affine(1, 0, 0, slope, 1, 0)(image, None),
    "TranslateX": lambda image, share: affine(1, 0, share * image.width, 0, 1, 0)(image, None),
    "TranslateY": lambda image, share: affine(1, 0, 0, 0, 1, share * image.height)(image, None),
}
MOVED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
FACTORS = (0.1, 0.19, 0.64, 1.0, 1.36, 1.81)
ARGUMENTS = {
    "Rotate": (-30, -27, 12, 27),
    "Posterize": (0, 1, 2, 4, 6, 8),
    "Solarize": (0, 26, 153, 256),
    "SolarizeAdd": (0, 44, 99, 110),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), FACTORS),
    "ShearX": (-0.27, 0.12, 0.3),
    "ShearY": (-0.27, 0.12, 0.3),
    "TranslateX": (-0.405, 0.18, 0.45),
    "TranslateY": (-0.405, 0.18, 0.45),
}


def pictures():
    """Smooth pictures of several contrasts, as photographs are, and a flat one."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 6, 7, 3))
    found = tf.image.resize(coarse, (96, 96), "bicubic").numpy() + random.normal(0, 3, (4, 96, 96, 3))
    found[1] = 60 + found[1] / 4
    found[2, :, :48] = 200  # many pixels of one grey level
    found[3] = (10, 120, 250)
    return np.clip(found, 0, 255).astype(np.uint8)


def applied(name, images, argument, interpolation="bilinear"):
    operation = randaugment.operations(3, FILL, interpolation)[name]
    return randaugment._applied(
        operation, tf.constant(images), tf.fill((len(images),), float(argument))
    ).numpy()


@pytest.mark.parametrize("name", PILLOW)
def test_operations_are_pillows(name):
    images = pictures()
    for argument in ARGUMENTS.get(name, (0,)):
        ours = applied(name, images, argument).astype(int)
        theirs = np.stack([np.asarray(PILLOW[name](Image.fromarray(x), argument)) for x in images]).astype(
            int
        )
        difference = np.abs(ours - theirs)
        if name in MOVED:
            # At the border of the picture ours mixes with the filling: less than 1 pixel on each side.
            filled = (theirs == FILL).all(-1)
            inside = ~(filled | np.roll(filled, (2, 0), (1, 2)) | np.roll(filled, (-2, 0), (1, 2)))
            inside &= ~(np.roll(filled, 2, 2) | np.roll(filled, -2, 2))
            inside[:, [0, 1, -2, -1]] = inside[:, :, [0, 1, -2, -1]] = False
            assert inside.mean() > 0.3
            assert difference[inside].mean() < 0.6
            assert np.quantile(difference[inside], 0.999) <= 30  # keras-cv shears 0.15 of a pixel to the side
            assert (np.abs(ours - FILL).max(-1) == 0)[filled & np.roll(filled, 3, 2)].mean() > 0.8
        else:
            assert difference.max() <= 2, argument
            assert difference.mean() < 0.7


def test_one_argument_for_each_image():
    images = pictures()
    operation = randaugment.operations(3, FILL)["Brightness"]
    out = operation(tf.cast(images, tf.float32), tf.constant([0.1, 0.5, 1.0, 0.9]))
    np.testing.assert_allclose(out[2], images[2])
    np.testing.assert_allclose(out[1], images[1] * 0.5)


def test_nearest_pixels_where_the_policy_says_so():
    images = pictures()[:1]
    out = applied("Rotate", images, 12, "nearest")
    theirs = Image.fromarray(images[0]).rotate(12, Image.Resampling.NEAREST, fillcolor=FILL)
    assert (out[0] == np.asarray(theirs)).all(-1).mean() > 0.97


@pytest.mark.parametrize("share", [-0.1813, 0.1813])
def test_torchvision_translates_by_whole_pixels(share):
    """Its `int(150 / 331 * 0.4 * 32)` is 5 pixels of 5.8."""
    images = np.random.default_rng(0).integers(1, 256, (2, 32, 32, 3), np.uint8)
    to_the_left = np.zeros_like(images)
    to_the_left[:, :, :-5] = images[:, :, 5:]
    to_the_right = np.zeros_like(images)
    to_the_right[:, :, 5:] = images[:, :, :-5]
    operation = randaugment.operations(3, (0, 0, 0), "nearest")["TranslateX"]
    out = operation(tf.cast(images, tf.float32), tf.fill((2,), share))
    np.testing.assert_array_equal(out, to_the_left if share > 0 else to_the_right)


def timms_transforms():
    """timm's `auto_augment.py` alone: all of timm needs a torchvision that fits the PyTorch installed."""
    package = importlib.util.find_spec("timm").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("auto_augment", f"{package}/data/auto_augment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("level", [0.0, 0.35, 0.4, 0.85, 0.9, 1.0])
def test_arguments_are_timms(level):
    transforms = timms_transforms()
    names = {
        name.replace("Increasing", "").replace("Rel", "") for name in transforms._RAND_INCREASING_TRANSFORMS
    }
    assert set(randaugment.TIMM.arguments) == names
    for name in transforms._RAND_INCREASING_TRANSFORMS:
        theirs = transforms.LEVEL_TO_ARG[name]
        ours = randaugment.TIMM.arguments[name.replace("Increasing", "").replace("Rel", "")]
        if theirs is None:
            assert ours(tf.constant([level]), tf.ones(1)) is None
            continue
        drawn = {round(float(theirs(10 * level, {})[0]), 4) for _ in range(50)}
        found = {round(float(ours(tf.constant([level]), tf.constant([sign]))[0]), 4) for sign in (-1.0, 1.0)}
        assert found == drawn, name


@pytest.mark.parametrize(
    ("name", "timm", "torchvision"),
    [
        ("Rotate", (-27, 27), (-12, 12)),
        ("Posterize", (1, 1), (6, 6)),
        ("Solarize", (26, 26), (153, 153)),
        ("SolarizeAdd", (99, 99), None),
        ("Color", (0.19, 1.81), (0.64, 1.36)),
        ("Sharpness", (0.19, 1.81), (0.64, 1.36)),
        ("ShearX", (-0.27, 0.27), (-0.12, 0.12)),
        ("TranslateY", (-0.405, 0.405), (-0.18127, 0.18127)),
    ],
)
def test_arguments_of_the_table(name, timm, torchvision):
    signs = tf.constant([-1.0, 1.0])
    for policy, level, expected in (
        (randaugment.TIMM, 0.9, timm),
        (randaugment.TORCHVISION, 0.4, torchvision),
    ):
        if expected is None:
            assert name not in policy.arguments
        else:
            found = np.broadcast_to(policy.arguments[name](tf.fill((2,), level), signs), 2)
            np.testing.assert_allclose(found, expected, rtol=1e-4)


def drawn(monkeypatch, arguments, probability, images, recipe):
    """One operation on each image, of a policy of our own, with fresh draws."""
    policy = randaugment.Policy(arguments, probability, "bilinear", True)
    monkeypatch.setitem(randaugment.POLICIES, "timm", policy)
    recipe = dataclasses.replace(recipe, randaugment_ops=1, randaugment_policy="timm")
    draws = tf.random.stateless_uniform((len(images), 1, randaugment.DRAWS), (3, 4), 1e-7)
    return randaugment.rand_augment(recipe, 3)(tf.constant(images), draws).numpy()


def test_strengths_are_normal_around_the_magnitude(monkeypatch):
    """Of white images, the brightness that is left says how strong the operation was."""
    images = np.full((4000, 2, 2, 3), 100, np.uint8)
    arguments = {"Brightness": randaugment.TIMM.arguments["Brightness"]}
    out = drawn(monkeypatch, arguments, 0.5, images, IMAGENET)[:, 0, 0, 0] / 100
    untouched = out == 1
    assert 0.46 < untouched.mean() < 0.54  # five standard deviations around a half
    brighter = out[~untouched] > 1
    assert 0.44 < brighter.mean() < 0.56
    strengths = np.abs(out[~untouched] - 1) / 0.9 * 10
    expected = np.clip(np.random.default_rng(0).normal(9, 0.5, len(strengths)), 0, 10)
    assert strengths.mean() == pytest.approx(expected.mean(), abs=0.07)
    assert strengths.std() == pytest.approx(expected.std(), abs=0.07)
    assert strengths.max() <= 10.1
    out = drawn(monkeypatch, arguments, 1.0, images, CIFAR10_FAST)[:, 0, 0, 0]
    assert set(out) == {64, 136}  # no noise


def test_operations_are_drawn_alike(monkeypatch):
    images = np.full((4000, 2, 2, 3), 100, np.uint8)
    arguments = {
        "Invert": lambda level, sign: None,
        "Posterize": lambda level, sign: 0 * level + 1,
        "SolarizeAdd": lambda level, sign: 0 * level + 50,
        "Identity": lambda level, sign: None,
    }
    out = drawn(monkeypatch, arguments, 1.0, images, IMAGENET)[:, 0, 0, 0]
    values, counts = np.unique(out, return_counts=True)
    np.testing.assert_array_equal(values, [0, 100, 150, 155])
    assert counts.min() > 860  # five standard deviations around 1000
    assert counts.max() < 1140
