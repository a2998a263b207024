import dataclasses
import functools
import io
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from convmixer_keras import ConvMixer, decode_predictions
from convmixer_keras.convert.runtime import read_image
from convmixer_keras.data import pipeline as data
from convmixer_keras.data import preprocessing, transforms
from convmixer_keras.data.class_names import imagenet_classes
from convmixer_keras.presets import IMAGENET_MEAN, IMAGENET_STD, PRESETS
from convmixer_keras.recipes import IMAGENET


def pillow_transform(image, size, crop_pct, method):
    """Resize the shorter side and crop the centre, as timm and torchvision do with Pillow."""
    side = math.floor(size / crop_pct)
    width, height = image.size
    shorter = min(width, height)
    image = image.resize((side * width // shorter, side * height // shorter), method)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)), np.float32)


def sample(height, width, kind="photograph"):
    """An image: smooth with edges, as photographs are, or the worst there is for a filter that overshoots."""
    random = np.random.default_rng(0)
    if kind == "noise":
        return Image.fromarray((255 * random.integers(0, 2, (height, width, 3))).astype(np.uint8))
    small = Image.fromarray(random.integers(0, 256, (9, 9, 3)).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.NEAREST)


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def assert_pillows(ours, image, size, crop_pct, interpolation="bicubic"):
    expected = pillow_transform(image.convert("RGB"), size, crop_pct, Image.Resampling[interpolation.upper()])
    ours = np.asarray(ours)
    assert ours.shape == (size, size, 3)
    assert ours.dtype == np.float32
    difference = np.abs(ours - expected)
    assert difference.mean() <= 0.5
    assert difference.max() <= 2


@pytest.mark.parametrize("kind", ["photograph", "noise"])
@pytest.mark.parametrize(("height", "width"), [(300, 401), (401, 300), (224, 224), (97, 510), (60, 45)])
@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.96), (64, 0.875), (33, 1.0)])
def test_evaluation_transform_equals_pillow(height, width, size, crop_pct, kind):
    image = sample(height, width, kind)
    for name in transforms.INTERPOLATIONS:
        ours = transforms.evaluation_transform(np.asarray(image), size, crop_pct, name)
        assert_pillows(ours, image, size, crop_pct, name)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (20, 3000), (3000, 20), (1, 500), (9000, 1)])
@pytest.mark.parametrize(("size", "crop_pct"), [(64, 0.96), (31, 1.0), (17, 0.3), (2, 0.875)])
def test_extreme_shapes_equal_pillow(height, width, size, crop_pct):
    image = sample(height, width, "noise")
    for name in transforms.INTERPOLATIONS:
        ours = transforms.evaluation_transform(np.asarray(image), size, crop_pct, name)
        assert_pillows(ours, image, size, crop_pct, name)


def test_a_strip_takes_no_more_memory_than_its_crop():
    """Resized as a whole it would be 224 x 22,400,000 pixels."""
    strip = np.tile(np.arange(200_000) % 256, (2, 1))[..., None]
    assert transforms.evaluation_transform(strip, 224).shape == (224, 224, 1)


def test_photographs_equal_pillow(imagenet_photos):
    for path in imagenet_photos:
        with Image.open(path) as image:
            assert_pillows(preprocessing.load_image(path), image, 224, 0.96)
            decoded = transforms.decode(path.read_bytes(), 3)
            np.testing.assert_array_equal(decoded, image.convert("RGB"))


def folder_of(root, files):
    """Writes SPLIT/CLASS/FILE with the same files as training and as validation images."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for file, contents in files.items():
                (root / split / name / file).write_bytes(contents)
    return root


def evaluated(root, size, **options):
    """The images of class a in order, as the evaluation pipeline gives them."""
    recipe = dataclasses.replace(IMAGENET, dataset=str(root), image_size=size, batch_size=2, **options)
    split = data.load_validation(recipe)
    assert split.class_names == ["a", "b"]
    batches = list(split.images)
    images, labels = (np.concatenate([batch[i] for batch in batches]) for i in (0, 1))
    return images[labels[:, 0] == 1]


def test_photographs_of_a_folder_equal_pillow(imagenet_photos, tmp_path):
    paths = imagenet_photos[::6]
    root = folder_of(tmp_path, {f"{i:02}.jpg": path.read_bytes() for i, path in enumerate(paths)})
    images = evaluated(root, 224)
    assert len(images) == len(paths)
    found = {image.tobytes() for image in images}
    assert found == {preprocessing.load_image(path).tobytes() for path in paths}


def without_adobe_marker(jpeg):
    """CMYK JPEG of other programs than Adobe's."""
    begin = jpeg.index(b"\xff\xee")
    return jpeg[:begin] + jpeg[begin + 2 + int.from_bytes(jpeg[begin + 2 : begin + 4], "big") :]


def transparent(image):
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def odd_files():
    image = Image.fromarray(np.asarray(sample(60, 50).resize((50, 60), Image.Resampling.BICUBIC)))
    turned = Image.Exif()
    turned[0x0112] = 6  # To be shown turned a quarter clockwise.
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200)
    cmyk = encoded(image.convert("CMYK"), "JPEG")
    return {
        "colour.jpg": encoded(image, "JPEG"),
        "progressive.jpg": encoded(image, "JPEG", progressive=True, subsampling=0),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "cmyk.jpg": cmyk,
        "cmyk_not_adobe.jpg": without_adobe_marker(cmyk),
        "turned.jpg": encoded(image, "JPEG", exif=turned),
        "turned.png": encoded(image, "PNG", exif=turned),
        "colour.png": encoded(image, "PNG"),
        "grey.png": encoded(image.convert("L"), "PNG"),
        "black_and_white.png": encoded(image.convert("1"), "PNG"),
        "grey16.png": encoded(grey16, "PNG"),
        "colour16.png": tf.io.encode_png(np.asarray(image).astype(np.uint16) * 250).numpy(),
        "palette.png": encoded(image.convert("P"), "PNG"),
        "palette16.png": encoded(image.quantize(16), "PNG"),
        "palette_transparent.png": encoded(image.convert("P"), "PNG", transparency=3),
        "grey_alpha.png": encoded(transparent(image).convert("LA"), "PNG"),
        "alpha.png": encoded(transparent(image), "PNG"),
        "in_truth_gif.jpg": encoded(image, "GIF"),
        "in_truth_bmp.png": encoded(image.convert("P"), "BMP"),
        "in_truth_webp.jpg": encoded(transparent(image), "WEBP"),
        "in_truth_tiff.png": encoded(image.convert("CMYK"), "TIFF"),
    }


@pytest.mark.parametrize(("name", "contents"), odd_files().items(), ids=list(odd_files()))
def test_every_kind_of_file_is_decoded_as_pillow_does(name, contents, tmp_path):
    (tmp_path / name).write_bytes(contents)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(transforms.decode(contents, 3), expected)
        assert_pillows(preprocessing.load_image(tmp_path / name, 32), image, 32, 0.96)


def test_every_kind_of_file_comes_out_of_a_folder_as_of_load_image(tmp_path):
    files = odd_files()
    images = evaluated(folder_of(tmp_path, files), 32)
    assert len(images) == len(files)
    found = {image.tobytes() for image in images}
    for name in files:
        assert preprocessing.load_image(tmp_path / "val" / "a" / name, 32).tobytes() in found


def test_grey_files_of_one_channel():
    image = sample(40, 30).convert("L")
    for file_format in ("JPEG", "PNG", "BMP"):
        contents = encoded(image, file_format)
        expected = np.asarray(Image.open(io.BytesIO(contents)))[..., None]
        np.testing.assert_array_equal(transforms.decode(contents, 1), expected)
    assert transforms.decode(encoded(sample(9, 9).convert("CMYK"), "JPEG"), 1).shape == (9, 9, 1)


@pytest.mark.parametrize("contents", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n"])
def test_decode_of_no_image_is_an_error(contents):
    with pytest.raises(tf.errors.OpError):
        transforms.decode(contents, 3)


def test_interpolation_of_a_recipe_reaches_the_pipeline(tmp_path):
    image = sample(40, 57, "noise")
    root = folder_of(tmp_path, {"a.png": encoded(image, "PNG")})
    for name in transforms.INTERPOLATIONS:
        (ours,) = evaluated(root, 16, interpolation=name, crop_pct=0.8)
        assert_pillows(ours, image, 16, 0.8, name)


def test_the_tflite_runtime_turns_photographs(tmp_path):
    """On a device they come from a camera; apart from that the transform is the same."""
    turned = Image.Exif()
    turned[0x0112] = 6
    sample(40, 60).save(tmp_path / "turned.png", exif=turned)
    with Image.open(tmp_path / "turned.png") as image:
        ImageOps.exif_transpose(image).save(tmp_path / "upright.png")
    ours = read_image(tmp_path / "turned.png", (32, 32, 3))
    np.testing.assert_allclose(
        ours, preprocessing.load_image(tmp_path / "upright.png", 32, crop_pct=1.0), atol=2
    )
    assert np.abs(ours - preprocessing.load_image(tmp_path / "turned.png", 32, crop_pct=1.0)).max() > 20


def logits_difference(builder, images, size, crop_pct):
    """Largest difference of a logit between our images and Pillow's, in standard deviations of the logits."""
    ours = np.stack([transforms.evaluation_transform(np.asarray(i), size, crop_pct) for i in images])
    pillows = [pillow_transform(image, size, crop_pct, Image.Resampling.BICUBIC) for image in images]
    model = builder(
        input_shape=(size, size, 3),
        input_mean=[255 * m for m in IMAGENET_MEAN],
        input_std=[255 * s for s in IMAGENET_STD],
    )
    for _ in range(20):  # Running statistics of images, so that the features do not fade with depth.
        model(ours[:8], training=True)
    expected = model.predict(np.stack(pillows), verbose=0)
    logits = model.predict(ours, verbose=0)
    assert (logits.argmax(1) == expected.argmax(1)).all()
    return np.abs(logits - expected).max() / expected.std(0).mean()


def photographs(folder):
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.JPEG"))]


def test_logits_equal_those_of_pillows_pixels():
    images = [sample(200 + 7 * i, 300 - 11 * i) for i in range(8)]
    small = functools.partial(ConvMixer, 64, 6, 9, 14)
    assert logits_difference(small, images, 112, 0.96) < 0.05


@pytest.mark.slow
def test_logits_of_a_full_size_model_equal_those_of_pillows_pixels(imagenet_photos):
    images = photographs(imagenet_photos[0].parent)
    full = functools.partial(ConvMixer, 1024, 20, 9, 14)
    assert logits_difference(full, images, 224, 0.96) < 0.05


def test_load_image_errors(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nothing\.jpg"):
        preprocessing.load_image(tmp_path / "nothing.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"cannot read .*text\.jpg as an image"):
        preprocessing.load_image(tmp_path / "text.jpg")
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cannot read .*cut\.jpg"):
        preprocessing.load_image(tmp_path / "cut.jpg")
    with pytest.raises(ValueError, match=r"cannot read"):
        preprocessing.load_image(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size .* got 0"),
        ({"crop_pct": 0}, "crop_pct must be over 0 and at most 1, got 0"),
        ({"crop_pct": 1.5}, "crop_pct .* got 1.5"),
        ({"interpolation": "cubic"}, "interpolation .* got 'cubic'"),
    ],
)
def test_evaluation_transform_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        transforms.evaluation_transform(np.zeros((4, 4, 3)), **{"size": 4, **arguments})


def test_published_transforms_resize_to_233():
    """floor(224 / 0.96), as timm has it for these weights."""
    for preset in PRESETS[:4]:
        assert int(preset.image_size / preset.crop_pct) == 233


def test_decode_predictions_names_the_highest():
    scores = np.array([[0.1, 0.7, 0.2], [3.0, 1.0, 2.0]])
    decoded = decode_predictions(scores, top=2, class_names=["cat", "dog", "owl"])
    assert decoded == [[("1", "dog", 0.7), ("2", "owl", 0.2)], [("0", "cat", 3.0), ("2", "owl", 2.0)]]
    with pytest.raises(ValueError, match=r"each of the 2 class names.*\(2, 3\)"):
        decode_predictions(scores, class_names=["cat", "dog"])
    with pytest.raises(ValueError, match=r"\(batch, classes\), got \(3,\)"):
        decode_predictions(scores[0], class_names=["cat", "dog", "owl"])


def test_decode_predictions_knows_imagenet():
    scores = np.zeros((2, 1000), np.float32)
    scores[0, 207] = 0.93
    scores[1, [0, 999]] = 0.6, 0.4
    decoded = decode_predictions(scores, top=2)
    assert decoded[0][0] == ("n02099601", "golden retriever", pytest.approx(0.93))
    assert [entry[:2] for entry in decoded[1]] == [("n01440764", "tench"), ("n15075141", "toilet tissue")]
    with pytest.raises(ValueError, match="1000 class names"):
        decode_predictions(scores[:, :10])


def test_imagenet_classes_are_in_the_order_of_their_ids():
    ids = [wordnet_id for wordnet_id, _ in imagenet_classes()]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


def test_imagenet_classes_name_the_photographs(imagenet_photos):
    names = dict(imagenet_classes())
    for path in imagenet_photos:
        wordnet_id, name = path.stem.split("_", 1)
        assert names[wordnet_id].lower() == name.replace("_", " ").lower()
