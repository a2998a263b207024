import numpy as np
import pytest
from PIL import Image

from convmixer_keras import decode_predictions, preprocessing
from convmixer_keras.presets import PRESETS


def pillow_transform(image, size, crop_pct, method):
    """Resize the shorter side and crop the centre, with Pillow."""
    side = int(size / crop_pct)
    width, height = image.size
    shorter = min(width, height)
    image = image.resize((side * width // shorter, side * height // shorter), method)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)), np.float32)


@pytest.mark.parametrize(("height", "width"), [(300, 401), (401, 300), (224, 224), (97, 510), (60, 45)])
@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.96), (64, 0.875), (32, 1.0)])
@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_evaluation_transform_equals_pillow(height, width, size, crop_pct, name):
    random = np.random.default_rng(0)
    # Smooth with edges, as photographs are.
    small = Image.fromarray(random.integers(0, 256, (9, 9, 3)).astype(np.uint8))
    image = small.resize((width, height), Image.Resampling.NEAREST)
    expected = pillow_transform(image, size, crop_pct, Image.Resampling[name.upper()])
    ours = preprocessing.evaluation_transform(np.asarray(image), size, crop_pct, name).numpy()
    assert ours.shape == (size, size, 3)
    difference = np.abs(ours - expected)
    assert difference.mean() <= 0.5
    assert difference.max() <= 16  # at hard edges, where Pillow clips between its two passes


def test_photographs_equal_pillow(imagenet_photos):
    for path in imagenet_photos:
        expected = pillow_transform(Image.open(path).convert("RGB"), 224, 0.96, Image.Resampling.BICUBIC)
        difference = np.abs(preprocessing.load_image(path) - expected)
        assert difference.mean() <= 0.25
        assert difference.max() <= 12


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_load_image_takes_any_mode(tmp_path, mode):
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (5, 6, 3)).astype(np.uint8))
    image = small.resize((50, 40), Image.Resampling.BILINEAR).convert(mode, dither=Image.Dither.NONE)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    expected = pillow_transform(Image.open(path).convert("RGB"), 32, 0.96, Image.Resampling.BICUBIC)
    ours = preprocessing.load_image(path, size=32)
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).mean() <= 0.5
    assert np.abs(ours - expected).max() <= 16


def test_load_image_turns_as_exif_says(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255  # The upper half is white.
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned a quarter clockwise.
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = preprocessing.load_image(tmp_path / "turned.png", size=40, crop_pct=1)
    assert image[:, 20:].min() == 255
    assert image[:, :20].max() == 0


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
        ({"interpolation": "lanczos"}, "interpolation .* got 'lanczos'"),
    ],
)
def test_evaluation_transform_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        preprocessing.evaluation_transform(np.zeros((4, 4, 3)), **{"size": 4, **arguments})


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
    ids = [wordnet_id for wordnet_id, _ in preprocessing.imagenet_classes()]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


def test_imagenet_classes_name_the_photographs(imagenet_photos):
    names = dict(preprocessing.imagenet_classes())
    for path in imagenet_photos:
        wordnet_id, name = path.stem.split("_", 1)
        assert names[wordnet_id].lower() == name.replace("_", " ").lower()
