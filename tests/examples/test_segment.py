"""The dense head learns from a folder of images and masks."""

import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from convmixer_keras.convert.export.runtime import Classifier

SCRIPT = ROOT / "examples" / "segment.py"
sys.path.insert(0, str(SCRIPT.parent))

import draw_scenes  # noqa: E402
import segment  # noqa: E402


def test_intersection_over_union_by_hand():
    truth = np.array([[0, 0, 1, 1, segment.IGNORED]])
    predicted = np.array([[0, 1, 1, 1, 0]])
    scores = segment.intersection_over_union(predicted, truth, 3)
    np.testing.assert_allclose(scores, [1 / 2, 2 / 3, np.nan])


@pytest.mark.slow
def test_from_drawn_scenes_to_a_picture(tmp_path, here, monkeypatch):
    draw_scenes.draw_scenes(tmp_path / "scenes", count=10, size=48)
    monkeypatch.chdir(tmp_path)
    words = ("scenes", "--size", 32, "--epochs", 1, "--tflite", "phone/s.tflite")
    done = here(lambda arguments: segment.main(), *words)
    assert done.code == 0, done.stderr
    assert "4 classes, 8 images to learn from, 2 held out" in done.stdout
    assert "mean intersection over union of what was held out" in done.stdout
    assert Image.open(tmp_path / "outputs/segmented.png").size[0] > 100
    model = keras.saving.load_model(tmp_path / "outputs/segmenter.keras")
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    file = Classifier(tmp_path / "phone/s.tflite")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(file.outputs(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def pairs(folder, *masks, ending="png"):
    """A folder with an image for each mask, an array of numbers or a Pillow image."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number, mask in enumerate(masks):
        Image.new("RGB", (4, 4)).save(folder / "images" / f"{number}.png")
        if mask is not None:
            mask = mask if isinstance(mask, Image.Image) else Image.fromarray(np.uint8(mask))
            mask.save(folder / "masks" / f"{number}.{ending}")
    return folder


EMPTY = np.zeros((4, 4))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "has no mask of its name"),
        (Image.new("RGB", (4, 4)), "one number for each pixel"),
        (EMPTY, r"must show at least two classes, and hold only \[0\]"),
        (EMPTY + 255, r"must show at least two classes, and hold only \[255\]"),
        (Image.fromarray(np.full((4, 4), 300, np.uint16)), "must hold numbers from 0 to 255, and holds 300"),
    ],
)
def test_masks_that_are_refused(mask, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        segment.read(pairs(tmp_path, mask, mask), 4)


def test_jpeg_masks_are_refused(tmp_path):
    folder = pairs(tmp_path, EMPTY, EMPTY, ending="jpg")
    with pytest.raises(ValueError, match="save masks as PNG"):
        segment.read(folder, 4)
    (tmp_path / "masks" / "0.jpg").write_text("damaged")
    with pytest.raises(ValueError, match=r"cannot read .*0\.jpg as an image"):
        segment.read(folder, 4)


def test_masks_of_black_and_white_have_two_classes(tmp_path):
    """And in masks with a third number 255 does not count, nor are they changed."""
    white = EMPTY.copy()
    white[:2] = 255
    _, masks = segment.read(pairs(tmp_path, white, EMPTY), 4)
    np.testing.assert_array_equal(masks, [white > 0, EMPTY])
    (tmp_path / "other").mkdir()
    _, masks = segment.read(pairs(tmp_path / "other", white, EMPTY + 1), 4)
    np.testing.assert_array_equal(masks, [white, EMPTY + 1])
    bits = Image.fromarray(white > 0)  # One bit for each pixel.
    (tmp_path / "bits").mkdir()
    _, masks = segment.read(pairs(tmp_path / "bits", bits, EMPTY), 4)
    np.testing.assert_array_equal(masks, [white > 0, EMPTY])


@pytest.mark.parametrize(("size", "message"), [(1, "at least the patch size, 4"), (10**9, "at most 4096")])
def test_sizes_that_are_refused(size, message, tmp_path, here):
    folder = pairs(tmp_path, EMPTY, EMPTY + 1)
    done = here(lambda arguments: segment.main(), folder, "--size", size, "--output", tmp_path / "m.keras")
    assert done.code == 2
    assert message in done.stderr.splitlines()[-1]


def test_masks_belong_to_the_image_of_their_path(tmp_path):
    for part, values in (("images", (10, 20)), ("masks", (1, 2))):
        for folder, value in zip("ab", values, strict=True):
            (tmp_path / part / folder).mkdir(parents=True)
            pixels = np.full((4, 4, 3) if part == "images" else (4, 4), value, np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / folder / "0.png")
    images, masks = segment.read(tmp_path, 4)
    assert [(image.mean(), mask.mean()) for image, mask in zip(images, masks, strict=True)] == [
        (10, 1),
        (20, 2),
    ]
    Image.fromarray(np.zeros((2, 4), np.uint8)).save(tmp_path / "masks/b/0.png")
    with pytest.raises(ValueError, match=r"b/0\.png must have its image's size, \(4, 4\), and has \(4, 2\)"):
        segment.read(tmp_path, 4)
    Image.new("L", (4, 4)).save(tmp_path / "masks/b/0.bmp")
    with pytest.raises(ValueError, match="differ in their ending only"):
        segment.read(tmp_path, 4)
