"""The dense head learns from a folder of images and masks."""

import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

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
    done = here(lambda arguments: segment.main(), "scenes", "--size", 32, "--epochs", 1)
    assert done.code == 0, done.stderr
    assert "4 classes, 8 images to learn from, 2 held out" in done.stdout
    assert "mean intersection over union of what was held out" in done.stdout
    assert Image.open(tmp_path / "outputs/segmented.png").size[0] > 100
    assert (tmp_path / "outputs/segmenter.keras").is_file()


@pytest.mark.parametrize(
    ("mask", "message"),
    [(None, "has no mask of its name"), (Image.new("RGB", (4, 4)), "one number for each pixel")],
)
def test_masks_that_are_refused(mask, message, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{name}.png")
        if mask:
            mask.save(tmp_path / "masks" / f"{name}.png")
    with pytest.raises(ValueError, match=message):
        segment.read(tmp_path, 4)
