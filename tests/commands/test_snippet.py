"""The source code that goes with a `.tflite` file; test_mediapipe_web.py runs it in a browser."""

import pytest
from pages import blocks
from small_models import build

import convmixer_keras as ck
from convmixer_keras.commands import snippet, tflite
from convmixer_keras.images.preprocessing import Preprocessing

PIXELS = {"input_mean": 120.0, "input_std": 60.0}
LANGUAGES = {"kotlin": "kotlin", "swift": "swift", "js": "javascript"}


@pytest.mark.parametrize("language", snippet.ENDINGS)
def test_the_page_shows_what_the_command_writes(language):
    record = Preprocessing(224, crop_pct=0.96)
    shown = blocks("docs/on-a-phone.md", LANGUAGES[language])[0]
    assert shown == snippet.snippet(language, "model.tflite", record, 1000)


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        (
            "kotlin",
            ["const val WIDTH = 18", "const val HEIGHT = 21", "const val CROP = 0.875f", "TURNED = false"],
        ),
        ("swift", ["CGSize(width: 18, height: 21)", "crop: CGFloat = 0.875", "isTurned = false"]),
        ("js", ["[WIDTH, HEIGHT] = [18, 21]", "CROP = 0.875;"]),
    ],
)
def test_it_has_the_numbers_of_the_file(language, lines, tmp_path, here):
    """Of the file that is written, and not of the model: the size is another."""
    record = Preprocessing((13, 15), crop_pct=0.875, orientation="stored")
    ck.save_model(build(depth=1, **PIXELS), tmp_path / "m.keras", list("abcde"), record)
    output = tmp_path / "birds.tflite"
    done = here(tflite.main, tmp_path / "m.keras", output, "--image-size", "21x18", "--snippet", language)
    assert (done.code, done.stderr) == (0, "")
    said = "21x18, crop_pct 0.875, bicubic, as stored"
    assert f"photographs: {said} -> probabilities of 5 classes: a, b, c, ..." in done.stdout
    source = output.with_suffix(snippet.ENDINGS[language]).read_text("utf-8")
    assert source.splitlines()[0] == f"// birds.tflite: {said}; 5 classes"
    for line in [*lines, "birds.tflite" if language != "swift" else '"birds", ofType: "tflite"']:
        assert line in source


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ({"include_top": False, "pooling": "avg", **PIXELS}, ()),
        ({"input_shape": (13, 15, 1), **PIXELS}, ()),
        (PIXELS, ("--batch", 2)),
        ({}, ()),
    ],
    ids=str,
)
def test_what_mediapipe_does_not_take_has_none(model, arguments, tmp_path, here):
    ck.save_model(build(depth=1, kernel_size=3, **model), tmp_path / "m.keras")
    done = here(tflite.main, tmp_path / "m.keras", tmp_path / "m.tflite", "--snippet", "js", *arguments)
    assert done.code == 2
    assert "--snippet is for a classifier of one RGB image at a time" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.keras"]
