"""Folders of photographs: layouts, classes, what is left out, what is held out."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from convmixer_keras.data import pipeline as data
from convmixer_keras.images.folder import Folder
from convmixer_keras.images.listing import IMAGE_ENDINGS, image_paths
from convmixer_keras.images.splits import slice_of
from convmixer_keras.recipes import CIFAR10_FAST, DIGITS, RECIPES, recipe_name_for
from convmixer_keras.utils.errors import InputError


def plain(dataset, **changes):
    settings = {"batch_size": 2, "image_size": 4, **changes}
    return dataclasses.replace(CIFAR10_FAST, dataset=str(dataset), flip=False, randaugment_ops=0, **settings)


def write(path, colour=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), colour).save(path)


@pytest.fixture
def photos(tmp_path):
    """CLASS/FILE, ten of each class, in every format and one folder further down."""
    endings = [ending for ending in IMAGE_ENDINGS if ending in Image.registered_extensions()]
    for name, colour in (("cat", (250, 0, 0)), ("dog", (0, 250, 0))):
        for i in range(10):
            ending = endings[i % len(endings)]
            write(tmp_path / "photos" / name / ("2024/may" if i > 6 else ".") / f"{i}{ending}", colour)
    return tmp_path / "photos"


def split_layout(photos, tmp_path, splits=("train", "val")):
    for split in splits:
        shutil.copytree(photos, tmp_path / "split" / split)
    return tmp_path / "split"


def labels_of(batches):
    return np.concatenate([labels.numpy().argmax(1) for _, labels, *_ in batches])


def test_classes_without_splits(photos):
    loaded = data.load(plain(photos, validation_share=0.2))
    assert loaded.class_names == ["cat", "dog"]
    assert (loaded.train_size, loaded.validation_size) == (16, 4)
    for images, labels in (*loaded.train, *loaded.validation):
        # The colour tells the class, in every format.
        np.testing.assert_array_equal(images.numpy().mean((1, 2)).argmax(1), labels.numpy().argmax(1))


def test_what_is_held_out_follows_from_names_alone(photos, tmp_path):
    first = Folder(photos, validation_share=0.3)
    held_out, rest = first.split("validation").paths, first.split("train").paths
    for name in ("cat", "dog"):
        assert len(held_out[name]) == 3
        assert sorted(held_out[name] + rest[name]) == image_paths(photos / name)
    moved = shutil.move(photos, tmp_path / "elsewhere")
    again = Folder(moved, validation_share=0.3).split("validation").paths

    def names(paths, root):
        return {os.path.relpath(path, root) for group in paths.values() for path in group}

    assert names(again, moved) == names(held_out, photos)
    # A smaller share is part of a larger one, and a new file moves few others.
    smaller = Folder(moved, validation_share=0.1).split("validation").paths
    assert names(smaller, moved) < names(again, moved)


def test_a_training_split_alone_is_divided(photos, tmp_path):
    root = split_layout(photos, tmp_path, ["train"])
    loaded = data.load(plain(root, validation_share=0.3))
    assert (loaded.train_size, loaded.validation_size) == (14, 6)
    with pytest.raises(InputError, match="has no split 'validation'; it has: train"):
        data.load(plain(root, validation_share=0.0))


def test_classes_are_those_of_the_training_split(photos, tmp_path):
    root = split_layout(photos, tmp_path, ["train", "val", "test"])
    (root / "scripts").mkdir()
    write(root / "test" / "unlabelled" / "1.png")
    (root / "train" / "bird").mkdir()
    with pytest.warns(UserWarning, match=r"train: left out 1 folders without images \('bird'\)"):
        loaded = data.load(plain(root))
    assert loaded.class_names == ["cat", "dog"]
    with pytest.raises(InputError, match=r"'test' of .* has 'unlabelled', which the training split lacks"):
        data.load_validation(plain(root, validation_split="test"))
    shutil.rmtree(root / "val" / "dog")
    with pytest.raises(InputError, match=r"'val' of .* lacks 'dog'"):
        data.load(plain(root))


def test_what_is_left_out_is_counted_in_one_line(photos):
    for name in ("a.txt", "b.txt", "c.psd", ".hidden"):
        (photos / "cat" / name).write_text("x")
    write(photos / "stray.png")
    with pytest.warns(UserWarning, match="left out") as caught:
        Folder(photos).split("train")
    (message,) = {str(warning.message) for warning in caught}
    assert message == (
        f"{photos}: left out 3 files that are not images (.txt 2, .psd 1) "
        "and 1 images outside any class folder"
    )


def test_links_that_lead_back(photos):
    (photos / "cat" / "again").symlink_to(photos / "cat")
    (photos / "cat" / "gone.jpg").symlink_to("nothing.jpg")
    os.mkfifo(photos / "cat" / "pipe.jpg")
    assert len(image_paths(photos / "cat")) == 10


def test_names_of_splits_are_not_taken_for_classes(photos, tmp_path):
    (tmp_path / "root").mkdir()
    for name in ("training", "testing"):
        shutil.copytree(photos, tmp_path / "root" / name)
    with pytest.raises(InputError, match="testing looks like a split and not like a class: name the splits"):
        data.load(plain(tmp_path / "root"))
    named = plain(tmp_path / "root", train_split="training", validation_split="testing")
    assert data.load(named).class_names == ["cat", "dog"]
    # A class of trains is a class.
    for name in ("train", "bus"):
        shutil.copytree(photos / "cat", tmp_path / "vehicles" / name)
    assert data.load(plain(tmp_path / "vehicles")).class_names == ["bus", "train"]


def classes_of(root, **options):
    folder = Folder(root, **options)
    return {split: sorted(folder.split(split).paths) for split in folder.split_names}


def layout(root, *folders):
    for folder in folders:
        for i in range(2):
            write(root / folder / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["valley/spring", "valley/autumn", "hill"], ["hill", "valley"]),
        (["valley/spring", "valley/autumn", "hill/spring", "hill/autumn"], ["hill", "valley"]),
        (["testament/old", "bus"], ["bus", "testament"]),
        (["bus", "car", "train"], ["bus", "car", "train"]),
        (["bus", "train", "train/2024"], ["bus", "train"]),
    ],
)
def test_classes_that_are_no_splits(folders, expected, tmp_path):
    assert classes_of(layout(tmp_path, *folders)) == {"train": expected}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["bus", "car", "train/steam", "train/electric"], "train holds folders .* and 'bus' beside it"),
        (["bus", "test/blood", "test/driving"], "test holds folders of images as a split does"),
        (["train/cat", "train/dog", "Val/cat", "Val/dog"], "train holds folders .* and 'Val' beside it"),
        (["train/cat", "val/cat", "holdout/cat"], "and 'holdout' beside it is no split"),
        (["Train/cat", "Train/dog", "Test/cat", "Test/dog"], "Test looks like a split"),
        (["train2017/cat", "val2017/cat"], "train2017 looks like a split"),
        (["train_images/cat", "other/cat"], "train_images looks like a split"),
        (["train", "test"], "test is named like a split, and must hold a folder for each class"),
    ],
)
def test_what_may_be_a_split_or_a_class_is_an_error(folders, message, tmp_path):
    with pytest.raises(InputError, match=message):
        Folder(layout(tmp_path, *folders))


def test_splits_that_are_named_may_stand_beside_anything(tmp_path):
    root = layout(tmp_path, "train/cat", "train/dog", "holdout/cat", "holdout/dog", "bus")
    with pytest.warns(UserWarning, match=r"left out 'bus'"):
        found = classes_of(root, named=["train", "holdout"])
    assert found == {"holdout": ["cat", "dog"], "train": ["cat", "dog"]}


def test_a_test_split_without_labels_is_left_out(tmp_path):
    root = layout(tmp_path, "train/cat", "train/dog", "test")
    with pytest.warns(UserWarning, match=r"left out 'test'"):
        assert classes_of(root, validation_share=0.5) == {
            "train": ["cat", "dog"],
            "validation": ["cat", "dog"],
        }


@pytest.mark.parametrize("target", ["..", "../dog", "../dog/more", "../.."])
def test_a_link_adds_no_other_classes_images(target, tmp_path):
    root = layout(tmp_path / "photos", "cat", "dog", "dog/more")
    (root / "cat" / "link").symlink_to(target)
    with pytest.warns(UserWarning, match=r"left out 1 files that are not images \(links back 1\)"):
        paths = Folder(root).split("train").paths
    assert len(paths["cat"]) == 2
    assert len(paths["dog"]) == 4


@pytest.mark.parametrize(("link", "target"), [("bird", "cat"), ("val", "train"), ("train/bird", "cat")])
def test_no_class_or_split_is_another_ones_link(link, target, tmp_path):
    """Its images would be there under two labels, or be trained on and validated on."""
    inside = "train/" if "/" in link or target == "train" else ""
    root = layout(tmp_path / "photos", f"{inside}cat", f"{inside}dog")
    (root / link).symlink_to(target)
    name = os.path.basename(link)
    with pytest.warns(UserWarning, match=f"left out '{name}', links back into it"):
        paths = Folder(root).split("train").paths
    assert {*paths} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("links", "names"),
    [
        ({"cat": "pets", "dog": "pets/dogs"}, "cat and .*dog"),
        ({"cat": "x", "dog": "x"}, "cat and .*dog"),
        ({"train": "all", "val": "all"}, "train/.* and .*val/"),
    ],
    ids=str,
)
def test_no_two_links_lead_to_the_same_images(links, names, tmp_path):
    layout(tmp_path / "out", "pets", "pets/dogs", "x", "all/cat", "all/dog")
    root = layout(tmp_path / "photos", *(() if "train" in links else ("bird",)))
    root.mkdir(exist_ok=True)
    for link, target in links.items():
        (root / link).symlink_to(tmp_path / "out" / target)
    with pytest.raises(InputError, match=f"{names}.* lead to the same images"):
        Folder(root)


def test_links_that_lead_elsewhere_are_followed(tmp_path):
    layout(tmp_path / "elsewhere", "cats", "cats/more", "dogs", "birds")
    root = layout(tmp_path / "photos", "cat")
    (root / "cat" / "link").symlink_to(tmp_path / "elsewhere" / "cats")
    (root / "dog").symlink_to(tmp_path / "elsewhere" / "dogs")
    (root / "bird").symlink_to(tmp_path / "elsewhere" / "birds")
    (tmp_path / "elsewhere" / "birds" / "back").symlink_to(tmp_path / "elsewhere" / "dogs")
    with pytest.warns(UserWarning, match="links back 1"):
        paths = Folder(root).split("train").paths
    assert {name: len(found) for name, found in paths.items()} == {"bird": 2, "cat": 6, "dog": 2}


def test_both_forms_of_a_name_are_one_class(tmp_path):
    """A letter with its accent is one character on one system and two on another."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = layout(tmp_path, f"train/{composed}", "train/bar", f"val/{decomposed}", "val/bar")
    loaded = data.load(plain(root))
    assert loaded.class_names == ["bar", composed]
    assert (loaded.train_size, loaded.validation_size) == (4, 4)
    layout(root, f"train/{decomposed}")
    assert len(Folder(root).split("train").paths[composed]) == 4


def test_a_class_whose_name_is_no_text(tmp_path):
    root = layout(tmp_path, "cat", "\udcff")
    with pytest.raises(InputError, match="must be in UTF-8"):
        Folder(root).split("train")


def test_a_class_of_one_photograph(photos):
    write(photos / "bird" / "1.jpg")
    with pytest.raises(InputError, match=r"at least 2 photographs.*'bird'.* has 1"):
        data.load(plain(photos))


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(10)),
        ("train[:90%]", range(9)),
        ("train[90%:]", range(9, 10)),
        ("train[-30%:]", range(7, 10)),
        ("train[2:5]", range(2, 5)),
        ("train[:-4]", range(6)),
        ("train[25%:75%]", range(2, 8)),
    ],
)
def test_slices(split, expected):
    """As tensorflow-datasets does it."""
    assert list(range(10))[slice_of(split, 10)] == list(expected)
    import tensorflow_datasets as tfds

    read = tfds.core.ReadInstruction.from_spec(split).to_absolute({"train": mock_split(10)})
    assert (read[0].from_ or 0, read[0].to or 10) == (expected.start, expected.stop)


def mock_split(size):
    import tensorflow_datasets as tfds

    return tfds.core.SplitInfo(name="train", shard_lengths=[size], num_bytes=1, filename_template=None)


@pytest.mark.parametrize(
    "split", ["train[50%]", "train[a:b]", "train[:0%]", f"train[:{9**999}]", "train[99:]", "train[:5"]
)
def test_slices_that_are_none(split):
    with pytest.raises(InputError, match=r"train\["):
        slice_of(split, 10)


@pytest.mark.slow
def test_slices_of_digits_and_folders(photos):
    parts = [
        data.load(dataclasses.replace(DIGITS, train_split=split, batch_size=1), max_bad_images=0).train_size
        for split in ("train[:90%]", "train[90%:]")
    ]
    assert sum(parts) == 1437
    seen = []
    parts = ("train[:70%]", "train[70%:]")
    for split, other in (parts, parts[::-1]):
        recipe = plain(photos, train_split=split, validation_split=other, validation_share=0.0)
        seen += [image.tobytes() for images, _ in data.load(recipe).train for image in images.numpy()]
    assert len(seen) == 20


@pytest.mark.parametrize(
    ("splits", "shared"),
    [
        (("train[:80%]", "train[70%:]", None), 144),
        (("train", "train[:5]", None), 5),
        (("train[:5]", "train", None), 5),
        (("train[:10]", "train[10:20]", "train[15:30]"), 5),
        (("train", "test", "test[100:]"), 260),
        (("train", None, "test"), 360),
        (("train", "test", "train"), 1437),
        (("train[:-30%]", "train[-30%:]", None), 0),
        (("train[:10]", "train[10:20]", "test"), 0),
    ],
)
def test_splits_that_overlap(splits, shared):
    names = dict(zip(("train_split", "validation_split", "test_split"), splits, strict=True))
    recipe = dataclasses.replace(DIGITS, **names, batch_size=1)
    if not shared:
        data.load(recipe)
        return
    with pytest.raises(
        InputError, match=rf"_split '.*' and .*_split '.*' must not overlap.* {shared:,} images"
    ):
        data.load(recipe)


def test_splits_of_a_folder_that_overlap(photos, tmp_path):
    recipe = plain(photos, train_split="train[:80%]", validation_split="train[70%:]")
    with pytest.raises(
        InputError, match=r"'train\[:80%\]' and .* 'train\[70%:\]' must not overlap.* 2 images"
    ):
        data.load(recipe)
    root = split_layout(photos, tmp_path, ("train", "val", "test"))
    data.load(plain(root, test_split="test"))
    with pytest.raises(InputError, match=r"validation_split 'val' and test_split 'val' must not overlap"):
        data.load(plain(root, test_split="val"))
    with pytest.raises(InputError, match="has no split 'tset'"):
        data.load(plain(root, test_split="tset"))


def test_validation_on_the_training_images_is_said():
    with pytest.warns(UserWarning, match="validation is on the training images, 'train'"):
        data.load(dataclasses.replace(DIGITS, validation_split="train"))


def test_balanced_class_weights(photos):
    for i in range(10):
        write(photos / "cat" / f"more{i}.png")
    loaded = data.load(plain(photos, class_weight="balanced", validation_share=0.1))
    totals = np.zeros(2)
    for _, labels, weights in loaded.train:
        totals += (labels.numpy() * weights.numpy()[:, None]).sum(0)
    np.testing.assert_allclose(totals, totals.mean(), rtol=0.15)  # The last, smaller batch is left out.
    assert totals.sum() == pytest.approx(loaded.steps * 2, rel=0.15)
    assert len(next(iter(loaded.validation))) == 2


@pytest.mark.parametrize("dataset", ["phots/", "./phots", "~/phots", "/no/such", "a/b/c", "", "README.md"])
def test_a_mistyped_folder_is_reported_as_such(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("")
    with pytest.raises(InputError, match=r"dataset must be .* which is no folder"):
        data.load(plain(dataset))


def test_a_recipe_for_each_data_set():
    assert [recipe_name_for(name) for name in ("digits", "cifar10", "imagenet2012", "mine/", "mnist")] == [
        "digits",
        "cifar10_fast",
        "imagenet",
        "photos",
        "photos",
    ]
    recipe = RECIPES["photos"]
    assert (recipe.image_size, len(recipe.mean), recipe.dtype_policy) == (96, 3, "float32")


@pytest.mark.parametrize(
    "places", [("train/cat", "val/cat"), ("train/cat", "train/dog"), ("train/cat", "val/dog")]
)
def test_links_below_classes_lead_to_other_images(places, tmp_path):
    root = layout(
        tmp_path / "photos", *(f"{split}/{name}" for split in ("train", "val") for name in ("cat", "dog"))
    )
    layout(tmp_path / "pool", "more")
    for place in places:
        (root / place / "more").symlink_to(tmp_path / "pool/more")
    folder = Folder(root)
    with pytest.raises(InputError, match="lead to the same images"):
        [folder.split(name) for name in folder.split_names]
    (root / places[1] / "more").unlink()
    assert {name: len(Folder(root).split(name).paths["cat"]) for name in ("train", "val")}["train"] > 0
