import os

from convmixer_keras.images.folder import Folder
from convmixer_keras.images.listing import image_paths


def test_images_at_any_depth(tmp_path):
    (tmp_path / "below" / "further").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "below/c.webp", "below/further/d.gif", "e.txt", ".f.png", "below/g.jpeg"):
        (tmp_path / name).write_text("")
    found = [os.path.relpath(path, tmp_path) for path in image_paths(tmp_path)]
    assert found == ["a.png", "b.JPG", "below/c.webp", "below/further/d.gif", "below/g.jpeg"]


def test_folders_of_other_programs_do_not_count(tmp_path):
    for folder in ("@eaDir", "__MACOSX", "lost+found", "#recycle", ".thumbnails", "$RECYCLE.BIN"):
        for parent in (tmp_path, tmp_path / "cat"):
            (parent / folder).mkdir(parents=True)
            (parent / folder / "a.jpg").write_bytes(b"")
    for name in ("cat/1.jpg", "dog/2.TIFF", "dog/3.heic", "dog/4.jfif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path[len(str(tmp_path)) + 1 :] for path in image_paths(tmp_path)]
    assert found == ["cat/1.jpg", "dog/2.TIFF", "dog/3.heic", "dog/4.jfif"]
    assert list(Folder(tmp_path).split("train").paths) == ["cat", "dog"]
