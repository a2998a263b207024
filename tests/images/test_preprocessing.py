import dataclasses
import functools
import io
import math
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps, PngImagePlugin

from convmixer_keras import ConvMixer, decode_predictions
from convmixer_keras.data import augmentation, transforms
from convmixer_keras.data import pipeline as data
from convmixer_keras.data.draws import draw
from convmixer_keras.images import preprocessing, reading
from convmixer_keras.images.class_names import imagenet_classes
from convmixer_keras.images.preprocessing import INTERPOLATIONS, Preprocessing
from convmixer_keras.models.presets import IMAGENET_MEAN, IMAGENET_STD, PRESETS
from convmixer_keras.recipes import IMAGENET
from convmixer_keras.utils.errors import InputError


def pillow_transform(image, size, crop_pct, method):
    """Resize the shorter side and crop the centre, as timm and torchvision do with Pillow.

    Across first, as older versions of Pillow do within one call; newer ones take tall images down first.
    """
    side = math.floor(size / crop_pct)
    width, height = image.size
    shorter = min(width, height)
    width, height = side * width // shorter, side * height // shorter
    image = image.resize((width, image.height), method).resize((width, height), method)
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


def evaluation_transform(image, size, crop_pct=1.0, interpolation="bicubic"):
    pixels = np.asarray(image)
    record = Preprocessing(size, 3 if pixels.ndim == 3 else 1, crop_pct, interpolation)
    return transforms.evaluation_transform(pixels.reshape(*pixels.shape[:2], -1), record)


def as_rgb(image):
    """Pillow's `convert("RGB")`, which of 16-bit grey makes white of everything over 255."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return image.convert("RGB")


def assert_pillows(ours, image, size, crop_pct, interpolation="bicubic", atol=0):
    expected = pillow_transform(as_rgb(image), size, crop_pct, Image.Resampling[interpolation.upper()])
    ours = np.asarray(ours)
    assert ours.shape == (size, size, 3)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["photograph", "noise"])
@pytest.mark.parametrize(("height", "width"), [(300, 401), (401, 300), (224, 224), (97, 510), (60, 45)])
@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.96), (64, 0.875), (33, 1.0)])
def test_evaluation_transform_equals_pillow(height, width, size, crop_pct, kind):
    image = sample(height, width, kind)
    for name in INTERPOLATIONS:
        assert_pillows(evaluation_transform(image, size, crop_pct, name), image, size, crop_pct, name)
        ours = Preprocessing(size, 3, crop_pct, name)(image)
        assert_pillows(ours, image, size, crop_pct, name)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (20, 3000), (3000, 20), (1, 500), (9000, 1)])
@pytest.mark.parametrize(("size", "crop_pct"), [(64, 0.96), (31, 1.0), (17, 0.3), (2, 0.875)])
def test_extreme_shapes_equal_pillow(height, width, size, crop_pct):
    image = sample(height, width, "noise")
    for name in INTERPOLATIONS:
        ours = evaluation_transform(image, size, crop_pct, name)
        # Of the longest strips only what the crop shows is resized, which rounds a little differently.
        assert_pillows(ours, image, size, crop_pct, name, atol=1)


def test_a_strip_takes_no_more_memory_than_its_crop(monkeypatch):
    """Resized as a whole it would be 224 x 22,400,000 pixels."""
    resize = Image.Image.resize

    def watched(image, size, *arguments, **options):
        assert math.prod(size) <= reading.MOST_PIXELS
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    strip = np.tile((np.arange(200_000) % 256).astype(np.uint8), (2, 1))
    assert evaluation_transform(strip, 224).shape == (224, 224, 1)


def test_photographs_equal_pillow(imagenet_photos):
    for path in imagenet_photos:
        with Image.open(path) as image:
            assert_pillows(preprocessing.load_image(path), image, 224, 0.96)
            decoded = transforms.decode(path.read_bytes(), 3)
            np.testing.assert_array_equal(decoded, image.convert("RGB"))
            in_graph = transforms.evaluation_transform(decoded, Preprocessing(224, 3, 0.96))
            assert np.abs(in_graph - preprocessing.load_image(path)).max() <= 2


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
        expected = np.asarray(as_rgb(image))
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


@pytest.mark.parametrize(
    "name",
    ["lanczos", *(pytest.param(n, marks=pytest.mark.slow) for n in INTERPOLATIONS if n != "lanczos")],
)
def test_interpolation_of_a_recipe_reaches_the_pipeline(name, tmp_path):
    image = sample(40, 57, "noise")
    root = folder_of(tmp_path, {"a.png": encoded(image, "PNG")})
    (ours,) = evaluated(root, 16, interpolation=name, crop_pct=0.8)
    assert_pillows(ours, image, 16, 0.8, name)


def turned_files(image):
    """JPEG, PNG, WebP and TIFF files of every EXIF orientation, by name."""
    files = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"{orientation}.jpg"] = encoded(image, "JPEG", exif=exif, quality=95, subsampling=0)
        files[f"{orientation}.png"] = encoded(image, "PNG", exif=exif)
        files[f"in_truth_webp_{orientation}.png"] = encoded(image, "WEBP", exif=exif, lossless=True)
        files[f"in_truth_tiff_{orientation}.png"] = encoded(image, "TIFF", exif=exif)
    return files


TURNED = turned_files(sample(40, 60))


@pytest.mark.parametrize(("name", "contents"), TURNED.items(), ids=list(TURNED))
def test_photographs_are_turned_as_pillow_turns_them(name, contents, tmp_path):
    (tmp_path / name).write_bytes(contents)
    with Image.open(io.BytesIO(contents)) as image:
        # Pillow itself turns TIFF files, and then there is nothing to transpose.
        stored, shown = image.convert("RGB"), ImageOps.exif_transpose(image).convert("RGB")
    for orientation, expected in (("stored", stored), ("exif", shown)):
        np.testing.assert_array_equal(transforms.decode(contents, 3, orientation), expected)
        ours = Preprocessing(32, orientation=orientation)(tmp_path / name)
        assert_pillows(ours, expected, 32, 1.0)


def test_a_folder_is_turned_in_training_and_validation(tmp_path):
    """As often as not a crop of an unturned photograph has another shape, and all would differ."""
    files = {name: contents for name, contents in TURNED.items() if "in_truth" not in name}
    root = folder_of(tmp_path, files)
    expected = {
        name: Preprocessing(32, orientation="exif")(tmp_path / "val" / "a" / name).tobytes() for name in files
    }
    assert len(set(expected.values())) > 8
    found = {image.tobytes() for image in evaluated(root, 32, crop_pct=1.0, orientation="exif")}
    assert found == set(expected.values())
    recipe = dataclasses.replace(
        IMAGENET, dataset=str(root), image_size=32, batch_size=2, crop_pct=1.0, orientation="exif",
        crop_area=(1.0, 1.0), flip=False, randaugment_ops=0, erasing_probability=0, mixup_alpha=0,
        cutmix_alpha=0,
    )  # fmt: skip
    batches = data.load(recipe).train
    assert {image.numpy().tobytes() for images, _ in batches for image in images} <= set(expected.values())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_random_crop_of_a_turned_photograph_is_that_of_the_shown_one(orientation):
    """The rectangle is drawn on the image as it is shown; JPEG is then decoded within it alone."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    contents = encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=100, subsampling=0)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))
    recipe = dataclasses.replace(IMAGENET, image_size=16, orientation="exif", crop_area=(0.3, 0.6))
    for position in range(4):
        draws = draw(recipe, tf.constant(0, tf.int64), tf.constant(position, tf.int64))
        top, left, height, width = augmentation.crop_rectangle(tf.constant(shown.shape[:2]), recipe, draws)
        ours = augmentation.decode_crop(tf.constant(contents), 3, recipe, draws)
        np.testing.assert_array_equal(ours, shown[top : top + height, left : left + width])


def test_sixteen_bits_become_the_upper_eight(tmp_path):
    grey = np.linspace(0, 65535, 256 * 4).round().astype(np.uint16).reshape(16, 64)
    for file_format in ("PNG", "TIFF"):
        contents = encoded(Image.fromarray(grey), file_format)
        np.testing.assert_array_equal(transforms.decode(contents, 1)[..., 0], grey >> 8)
        np.testing.assert_array_equal(np.asarray(reading.read(contents, 1)), grey >> 8)


def png_header(width, height):
    """As much of a PNG file as says its size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    (tmp_path / "huge.png").write_bytes(png_header(13_000, 13_000) + b"\0\0\0\0IDAT" + b"\0" * 9)
    with pytest.raises(InputError, match=r"huge\.png .*13000 x 13000 pixels, and at most 120,000,000"):
        preprocessing.load_image(tmp_path / "huge.png")
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        transforms.decode((tmp_path / "huge.png").read_bytes(), 3)
    jpeg = bytearray(encoded(sample(8, 8), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 13_000, 13_000)
    with pytest.raises(InputError, match="13000 x 13000 pixels"):
        Preprocessing()(bytes(jpeg))
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        transforms.decode(bytes(jpeg), 3)


def test_whatever_pillow_raises_is_a_bad_image(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 3_000_000, zip=True)
    contents = encoded(sample(8, 8), "PNG", pnginfo=text)
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(contents)).load()
    with pytest.raises(InputError, match="cannot read the bytes as an image: "):
        Preprocessing()(contents)
    for odd in (b"", b"\xd7\xcd\xc6\x9a" + b"\0" * 40, b"\x01\xda" + b"\xff" * 600, b"GIF89a"):
        with pytest.raises(InputError, match="cannot read the bytes as an image"):
            Preprocessing()(odd)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG"])
def test_a_file_that_is_cut_off_is_found_by_its_end(kind, tmp_path):
    """MPO is what a phone writes that keeps a second picture in the file."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    more = {"save_all": True, "append_images": [image]} if kind == "MPO" else {}
    image.save(tmp_path / "whole.jpg", kind, **more)
    reading.check(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 4])
    with pytest.raises(InputError, match="cut"):
        reading.check(tmp_path / "cut.jpg")


def test_damaged_exif_turns_nothing():
    contents = encoded(sample(20, 30), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert Preprocessing((20, 30))(contents).shape == (20, 30, 3)
    assert transforms.decode(contents, 3, "exif").shape == (20, 30, 3)


def test_one_photograph_in_every_form(tmp_path):
    image = sample(50, 70)
    record = Preprocessing((24, 32), 3, 0.9, "lanczos", mean=(0.5, 0.4, 0.3), std=0.2)
    image.save(tmp_path / "a.png")
    expected = (Preprocessing((24, 32), 3, 0.9, "lanczos")(image) / 255 - [0.5, 0.4, 0.3]) / 0.2
    forms = (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), image,
             np.asarray(image), np.asarray(image, np.float64) + 0.3)  # fmt: skip
    for form in forms:
        ours = record(form)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    in_graph = transforms.evaluation_transform(np.asarray(image), record)
    np.testing.assert_allclose(in_graph, expected, rtol=0, atol=1e-5)
    grey = Preprocessing(16, 1)
    np.testing.assert_array_equal(grey(np.asarray(image)), grey(image.convert("L")))
    assert grey(np.zeros((5, 6))).shape == grey(np.zeros((5, 6, 1))).shape == (16, 16, 1)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (30, 30), (7, 90)])
@pytest.mark.parametrize("size", [(16, 24), (24, 16), (20, 20)])
def test_other_sizes_than_squares(shape, size):
    """The largest rectangle of the network's shape, around the centre, as by hand with Pillow's box."""
    image = sample(*shape)
    scale = max(size[0] / shape[0], size[1] / shape[1])
    height, width = size[0] / scale, size[1] / scale
    box = ((shape[1] - width) / 2, (shape[0] - height) / 2)
    box = (*box, box[0] + width, box[1] + height)
    expected = image.resize(size[::-1], Image.Resampling.BILINEAR, box)
    ours = Preprocessing(size, interpolation="bilinear")(image)
    # Whole numbers of pixels shift the crop by up to half a pixel of the result.
    assert np.abs(ours - np.asarray(expected, np.float32)).mean() < 12


def test_a_record_travels_as_json():
    record = Preprocessing((24, 32), 1, 0.9, "nearest", "stored", 0.5, 0.25)
    assert preprocessing.from_json(record.to_json(), "m") == record
    assert record.mean == (0.5,)
    for text in (
        "",
        "[]",
        "3",
        '{"sighs": 3}',
        '{"size": [1, 2, 3]}',
        '{"crop_pct": NaN}',
        '{"mean": "abc"}',
    ):
        with pytest.raises(InputError, match=r"m holds a damaged preprocessing\.json"):
            preprocessing.from_json(text, "m")


def logits_difference(builder, images, size, crop_pct):
    """Largest difference of a logit between our images and Pillow's, in standard deviations of the logits."""
    ours = np.stack([evaluation_transform(i, size, crop_pct) for i in images])
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
        ({"orientation": "up"}, "orientation .* got 'up'"),
        ({"channels": 4}, "channels must be 1 or 3.* got 4"),
        ({"size": (3, 2.5)}, r"size .* got \(3, 2.5\)"),
        ({"size": 10**9}, "size must be at most"),
        ({"mean": 0.5}, "mean and std must be given together"),
        ({"mean": 0.5, "std": 0}, "std must be positive"),
        ({"mean": (0.5, 0.5), "std": 1}, "mean must be one number or 3"),
        ({"mean": math.nan, "std": 1}, "mean must be in units of 0..1, got nan"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"size": 4, **arguments})


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
