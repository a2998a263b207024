import os

from convmixer_keras.images.listing import image_paths


def test_images_at_any_depth(tmp_path):
    (tmp_path / "below" / "further").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "below/c.webp", "below/further/d.gif", "e.txt", ".f.png", "below/g.jpeg"):
        (tmp_path / name).write_text("")
    found = [os.path.relpath(path, tmp_path) for path in image_paths(tmp_path)]
    assert found == ["a.png", "b.JPG", "below/c.webp", "below/further/d.gif", "below/g.jpeg"]
