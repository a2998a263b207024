import dataclasses
import functools
import http.server
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits
from tensorflow_datasets.core.download import download_manager, downloader

from convmixer_keras.data import bad_images, named
from convmixer_keras.data import pipeline as data
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.recipes import CIFAR10_FAST, DIGITS, IMAGENET
from convmixer_keras.utils import streams
from convmixer_keras.utils.errors import InputError


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def plain(dataset, **changes):
    """A recipe without augmentation."""
    return dataclasses.replace(CIFAR10_FAST, dataset=str(dataset), flip=False, randaugment_ops=0, **changes)


def labels_of(dataset):
    return np.concatenate([labels.numpy().argmax(1) for _, labels in dataset])


def images_of(dataset):
    return np.concatenate([images.numpy() for images, _ in dataset])


def examples_of(dataset):
    """Images and labels of one pass; another pass over training data has another order."""
    images, labels = zip(*((images.numpy(), labels.numpy()) for images, labels in dataset), strict=True)
    return np.concatenate(images), np.concatenate(labels).argmax(1)


def test_digits_are_scikit_learns():
    loaded = data.load(dataclasses.replace(DIGITS, batch_size=100))
    assert loaded.class_names == [str(i) for i in range(10)]
    assert (loaded.train_size, loaded.validation_size, loaded.channels) == (1437, 360, 1)
    images, labels = examples_of(loaded.validation)
    assert images.shape == (360, 8, 8, 1)
    assert images.dtype == np.float32
    scans, digits = load_digits(return_X_y=True)
    scans = np.round(scans * 255 / 16).astype(int)
    digit_of = {scan.tobytes(): digit for scan, digit in zip(scans, digits, strict=True)}
    found = [digit_of[image.reshape(64).astype(int).tobytes()] for image in images]
    np.testing.assert_array_equal(found, labels)
    assert np.bincount(labels).min() >= 34  # every digit alike
    train = {image.tobytes() for image in images_of(loaded.train)}
    assert not train & {image.tobytes() for image in images}


def test_training_epochs_cover_the_set_in_new_orders():
    loaded = data.load(dataclasses.replace(DIGITS, batch_size=479))  # 3 x 479 = 1437: nothing is left out
    first, second = images_of(loaded.train), images_of(loaded.train)
    assert len(loaded.train) == 3
    assert len(first) == 1437
    assert sorted(image.tobytes() for image in first) == sorted(image.tobytes() for image in second)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("global_seed", [pytest.param(0, marks=pytest.mark.slow), 7])
def test_order_follows_from_seed_and_epoch(global_seed):
    recipe = dataclasses.replace(DIGITS, seed=3)
    tf.random.set_seed(global_seed)
    loaded = data.load(recipe)
    orders = [labels_of(loaded.train) for _ in range(3)]
    tf.random.set_seed(global_seed + 1)
    again = data.load(recipe)
    again.epoch.assign(2)
    np.testing.assert_array_equal(labels_of(again.train), orders[2])
    other = data.load(dataclasses.replace(DIGITS, seed=4))
    assert not np.array_equal(labels_of(other.train), orders[0])


def test_a_pass_can_start_in_the_middle():
    recipe = dataclasses.replace(DIGITS, batch_size=100, seed=3)
    loaded = data.load(recipe)
    passes = [list(loaded.train) for _ in range(3)]
    again = data.load(recipe)
    again.epoch.assign(1)
    again.first_batch.assign(11)
    rest = list(again.train)
    assert (len(rest), int(again.first_batch), int(again.epoch)) == (3, 0, 2)
    for expected, found in zip(passes[1][11:] + passes[2], rest + list(again.train), strict=True):
        np.testing.assert_array_equal(expected[0], found[0])
        np.testing.assert_array_equal(expected[1], found[1])


def test_keras_fits_full_passes_and_the_rest_of_one():
    import keras

    loaded = data.load(dataclasses.replace(DIGITS, batch_size=100))
    assert loaded.steps == len(loaded.train) == 14
    assert loaded.validation_steps == len(loaded.validation) == 4
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("sgd", "mse", steps_per_execution=4)
    options = {"validation_data": loaded.validation, "shuffle": False, "verbose": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(loaded.train, epochs=2, **options)
    assert int(model.optimizer.iterations) == 28
    loaded.epoch.assign(2)
    loaded.first_batch.assign(9)
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(loaded.train, initial_epoch=2, epochs=4, **options)
    assert int(model.optimizer.iterations) == 28 + 5 + 14
    assert int(loaded.epoch) == 4


@pytest.mark.parametrize("workers", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_workers_share_every_batch(workers):
    recipe = dataclasses.replace(DIGITS, batch_size=100)
    together = data.load(recipe)
    shares = [data.load(recipe, worker=worker, workers=workers) for worker in range(workers)]
    for one, *parts in zip(together.train, *(share.train for share in shares), strict=True):
        for whole, *of_workers in zip(one, *parts, strict=True):
            joined = np.stack(of_workers, 1).reshape(whole.shape)
            np.testing.assert_array_equal(joined, whole)
    images, labels = examples_of(together.validation)
    seen = [list(share.validation) for share in shares]
    assert {len(batches) for batches in seen} == {together.validation_steps}
    assert {len(batch[0]) for batches in seen for batch in batches} == {100 // workers}
    found, found_labels, weights = (
        np.stack([np.concatenate([batch[i] for batch in batches]) for batches in seen], 1).reshape(
            400, *seen[0][0][i].shape[1:]
        )
        for i in range(3)
    )
    np.testing.assert_array_equal(weights, np.arange(400) < 360)
    np.testing.assert_array_equal(found[:360], images)
    np.testing.assert_array_equal(found_labels[:360].argmax(1), labels)


def test_wrong_workers_are_refused():
    for options, message in (
        ({"workers": 0}, "workers must be a positive integer, got 0"),
        ({"workers": 2, "worker": 2}, "worker must be at least 0 and below workers=2, got 2"),
        ({"workers": 3}, "batch_size must be a multiple of the 3 workers, got 64"),
        ({"max_bad_images": -1}, "max_bad_images must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            data.load(DIGITS, **options)


@pytest.fixture
def damaged_folder(tmp_path, image_folder):
    """Two bad files to train on and one to validate on, and some that are no images at all."""
    root = tmp_path / "damaged"
    shutil.copytree(image_folder, root)
    for path in (root / "train/red/1.jpg", root / "val/blue/4.jpg"):
        path.write_bytes(path.read_bytes()[:-40])  # cut off near its end
    (root / "train/green/3.png").write_bytes(b"")
    (root / "train/red/Thumbs.db").write_bytes(b"not an image")
    (root / "train/red/._1.jpg").write_bytes(b"not an image")
    (root / ".cache" / "red").mkdir(parents=True)
    (root / "README.jpg").write_bytes(b"not an image")
    return root


@pytest.mark.slow
def test_bad_images_are_named_and_left_out(damaged_folder):
    bad = [str(damaged_folder / name) for name in ("train/green/3.png", "train/red/1.jpg", "val/blue/4.jpg")]
    recipe = plain(damaged_folder, batch_size=6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = data.load(recipe, max_bad_images=3)
    messages = [str(warning.message) for warning in caught if "it is left out" in str(warning.message)]
    assert sorted(re.match("cannot read (.*) as an image: .*; it is left out", m)[1] for m in messages) == bad
    assert (loaded.train_size, loaded.validation_size) == (34, 14)
    for _ in range(2):
        images, labels = examples_of(loaded.train)
        assert len(images) == 30  # Five full batches.
        np.testing.assert_array_equal(2 - images.mean((1, 2)).argmax(1), labels)
        assert len(labels_of(loaded.validation)) == 14

    # All workers leave out the same files, so that their shares are still those of one worker's batches.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [data.load(recipe, worker=worker, workers=2, max_bad_images=3) for worker in range(2)]
    loaded.epoch.assign(0)
    for whole, *of_workers in zip(loaded.train, *(part.train for part in parts), strict=True):
        joined = np.stack([images for images, _ in of_workers], 1).reshape(whole[0].shape)
        np.testing.assert_array_equal(joined, whole[0])
    assert sum(float(sum(weights)) for part in parts for *_, weights in part.validation) == 14


def test_a_split_of_bad_images_alone(damaged_folder):
    shutil.rmtree(damaged_folder / "val")
    for name in ("blue", "green", "red"):
        (damaged_folder / "val" / name).mkdir(parents=True)
        (damaged_folder / "val" / name / "1.jpg").write_text("no image")
    with pytest.raises(InputError, match="a split has no image that can be read") as error:
        data.load(plain(damaged_folder, batch_size=6), max_bad_images=9)
    assert len(error.value.lines) == 1 + 5


@pytest.mark.parametrize("limit", [0, 2])
def test_all_bad_images_are_listed_before_any_work(damaged_folder, limit):
    with pytest.raises(InputError) as error:
        data.load(plain(damaged_folder, batch_size=6), max_bad_images=limit)
    message, *files = error.value.lines
    assert message == (
        "3 of 51 image files cannot be read: repair or remove them, or leave them out with max_bad_images=3"
    )
    found = sorted(re.search(r"\w+/\w+/\w+\.\w+(?= as an image: )", file)[0] for file in files)
    assert found == ["train/green/3.png", "train/red/1.jpg", "val/blue/4.jpg"]


def test_too_many_files_are_looked_at_when_their_turn_comes(damaged_folder, monkeypatch):
    monkeypatch.setattr(bad_images, "MOST_LOOKED_AT", 50)
    loaded = data.load(plain(damaged_folder, batch_size=6))
    with pytest.raises(InputError) as error, loaded.errors_named():
        examples_of(loaded.train)
    assert len(error.value.lines) == 1 + 3  # All bad files of both splits.
    with pytest.raises(InputError):
        data.load(plain(damaged_folder, batch_size=6), check_images=True)


def interrupted_jpeg(image, **options):
    """The first half of a JPEG file, and the marker of its end."""
    contents = encoded(image, "JPEG", **options)
    return contents[: len(contents) // 2] + b"\xff\xd9"


@pytest.mark.slow
def test_what_only_decoding_finds(image_folder, tmp_path, capfd, monkeypatch):
    shutil.copytree(image_folder, tmp_path / "images")
    recipe = plain(tmp_path / "images", batch_size=6)
    red = tmp_path / "images/train/red"
    image = Image.open(red / "1.jpg").resize((300, 200))
    (red / "half.jpg").write_bytes(interrupted_jpeg(image))
    (red / "progressive.jpg").write_bytes(interrupted_jpeg(image, progressive=True))
    whole = encoded(image, "JPEG")
    tables = whole.index(b"\xff\xdb")  # Too many bytes before these, and then a picture that breaks off.
    (red / "both.jpg").write_bytes(whole[:tables] + bytes(20) + interrupted_jpeg(image)[tables:])
    (red / "more.jpg").write_bytes(whole[:-2] + bytes(20) + whole[-2:])
    pixels = encoded(image, "PNG")
    (red / "wrong.png").write_bytes(pixels[:500] + bytes(50) + pixels[550:])  # Its checksum is wrong.
    with (
        pytest.warns(UserWarning, match=r"more\.jpg: Corrupt JPEG data: \d+ extraneous bytes"),
        pytest.raises(InputError, match="4 of 56 image files") as error,
    ):
        data.load(recipe, check_images=True)
    for name in ("both.jpg", "half.jpg", "progressive.jpg", "wrong.png"):
        assert any(name in line for line in error.value.lines), name
    assert "more.jpg" not in str(error.value)
    assert "JPEG" not in capfd.readouterr().err
    monkeypatch.setattr(streams, "in_command", True)
    with (  # Few JPEG files are decoded in any case.
        pytest.warns(UserWarning, match=r"both\.jpg: Corrupt JPEG data: 20 extraneous bytes"),
        pytest.raises(InputError, match="2 of 56 image files"),
    ):
        data.load(recipe)
    monkeypatch.setattr(bad_images, "FEW_BYTES", 0)
    # Without it, a pass over all ends at the file that no decoder takes, and names it.
    loaded = data.load(dataclasses.replace(recipe, batch_size=41))
    message = r"1 of 56 image files .*max_bad_images=1(.|\n)*wrong\.png"
    with pytest.raises(InputError, match=message), loaded.errors_named():
        list(loaded.train)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((12_001, 10_000), "it has 12001 x 10000 pixels, and at most 120,000,000 are allowed"),
        ((20_000, 10_000), "it has over 120,000,000 pixels, the most that are allowed"),
    ],
)
def test_an_image_of_too_many_pixels_is_named_as_such(image_folder, tmp_path, size, message):
    shutil.copytree(image_folder, tmp_path / "images")
    large = tmp_path / "images/val/blue/4.png"
    Image.new("1", size).save(large)
    with pytest.raises(InputError) as error:
        data.load_validation(plain(tmp_path / "images", batch_size=6))
    assert error.value.lines[1:] == [f"cannot read {large} as an image: {message}"]
    with pytest.raises(InputError) as error:
        Preprocessing(8)(large)
    assert str(error.value) == f"cannot read {large} as an image: {message}"


def augmented(image_folder, **changes):
    """A recipe with every kind of augmentation."""
    recipe = dataclasses.replace(
        IMAGENET,
        dataset=str(image_folder),
        image_size=24,
        batch_size=12,
        color_jitter=0.2,
        erasing_probability=0.5,
    )
    return dataclasses.replace(recipe, **changes)


def with_threads(dataset, count):
    options = tf.data.Options()
    options.threading.private_threadpool_size = count
    options.threading.max_intra_op_parallelism = count
    options.autotune.enabled = count > 1
    return dataset.with_options(options)


@pytest.mark.slow
def test_augmentation_is_the_same_at_any_parallelism(image_folder):
    loaded = data.load(augmented(image_folder))
    first = images_of(with_threads(loaded.train, 1))
    second = images_of(with_threads(loaded.train, 4))
    assert not np.isclose(first, second).all((1, 2, 3)).any()
    loaded.epoch.assign(0)
    np.testing.assert_allclose(images_of(with_threads(loaded.train, 8)), first, atol=1e-3)
    loaded.epoch.assign(1)
    loaded.first_batch.assign(2)
    np.testing.assert_allclose(images_of(loaded.train), second[24:], atol=1e-3)


@pytest.mark.slow
def test_workers_augment_as_one_does(image_folder):
    """But for mixing, which is within what a worker has of a batch."""
    recipe = augmented(image_folder, mixup_alpha=0.0, cutmix_alpha=0.0)
    whole = images_of(data.load(recipe).train)
    parts = [images_of(data.load(recipe, worker=worker, workers=2).train) for worker in range(2)]
    joined = np.stack(parts, 1).reshape(whole.shape)
    # The blur of sharpening is summed in another order, and rounded.
    assert (np.abs(joined - whole) > 1e-3).mean() < 1e-4


@pytest.mark.slow
def test_batches_are_the_same_in_another_process(image_folder):
    script = (
        "import dataclasses, sys, numpy as np, tensorflow as tf\n"
        "tf.config.threading.set_inter_op_parallelism_threads(1)\n"
        "from convmixer_keras import recipes\nfrom convmixer_keras.data import pipeline as data\n"
        f"recipe = {augmented(image_folder)!r}\n"
        "batches = [images.numpy() for images, _ in data.load(recipe).train]\n"
        "np.save(sys.stdout.buffer, np.concatenate(batches))\n"
    ).replace("Recipe(", "recipes.Recipe(")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    ours = images_of(data.load(augmented(image_folder)).train)
    np.testing.assert_allclose(np.load(io.BytesIO(done.stdout)), ours, atol=1e-3)


def test_folder(image_folder):
    loaded = data.load(plain(image_folder, batch_size=9))
    assert loaded.class_names == ["blue", "green", "red"]
    assert (loaded.train_size, loaded.validation_size, loaded.channels) == (36, 15, 3)
    assert [len(images) for images, _ in loaded.validation] == [9, 6]  # the last batch too
    for split in (loaded.train, loaded.validation):
        images, labels = examples_of(split)
        assert images.shape[1:] == (32, 32, 3)
        assert images.min() >= 0
        assert images.max() <= 255
        strongest = images.mean((1, 2)).argmax(1)  # red, green or blue
        np.testing.assert_array_equal(2 - strongest, labels)


@pytest.mark.slow
def test_cifar10_files(cifar10_folder):
    loaded = data.load(plain(cifar10_folder, batch_size=40))
    assert (loaded.train_size, loaded.validation_size) == (400, 100)
    assert loaded.class_names[3:6] == ["cat", "deer", "dog"]
    path = next((cifar10_folder / "test" / "cat").iterdir())
    expected = np.asarray(Image.open(path).convert("RGB"), np.float32)
    distances = np.abs(images_of(loaded.validation) - expected).max((1, 2, 3))
    assert labels_of(loaded.validation)[distances.argmin()] == 3
    assert distances.min() <= 6  # two JPEG decoders


class Shapes(tfds.core.GeneratorBasedBuilder):
    """A small data set of its own, written by tensorflow-datasets."""

    VERSION = tfds.core.Version("1.0.0")
    CLASSES = ("dark", "light")
    # No package to read a description from.
    pkg_dir_path = None

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(names=self.CLASSES),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 20), "test": self._generate_examples(20, 28)}

    def _generate_examples(self, start, stop):
        for i in range(start, stop):
            value = 20 + i if i % 2 == 0 else 200 + i
            encoded = io.BytesIO()
            Image.fromarray(np.full((10 + i, 12, 1), value, np.uint8).squeeze(-1)).save(encoded, "PNG")
            encoded.seek(0)
            yield i, {"image": encoded, "label": self.CLASSES[i % 2]}


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Shapes(data_dir=folder).download_and_prepare()
    return folder


@pytest.mark.parametrize("state", ["gone", "forbidden"])
def test_a_file_that_cannot_be_read_is_not_said_to_be_damaged(state, image_folder, tmp_path):
    if state == "forbidden" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    shutil.copytree(image_folder, tmp_path / "photos")
    loaded = data.load_validation(plain(tmp_path / "photos", image_size=8, batch_size=5))
    path = tmp_path / "photos" / "val" / "red" / "0.png"
    path.unlink() if state == "gone" else path.chmod(0)
    reason = "there is no file .*0.png" if state == "gone" else "0.png: permission denied"
    with pytest.raises(InputError, match=reason), loaded.errors_named():
        list(loaded.images)


def test_tfds_name(tfds_folder):
    recipe = plain("shapes", image_size=8, mean=(0.5,), std=(0.5,), batch_size=5)
    loaded = data.load(recipe, data_dir=tfds_folder)
    assert loaded.class_names == ["dark", "light"]
    assert (loaded.train_size, loaded.validation_size, loaded.channels) == (20, 8, 1)
    seen = set()
    for images, labels in loaded.train:
        assert images.shape == (5, 8, 8, 1)
        np.testing.assert_array_equal(images.numpy().mean((1, 2, 3)) > 128, labels.numpy().argmax(1) == 1)
        seen |= {int(image.mean()) for image in images.numpy()}
    assert len(seen) == 20
    part = data.load(
        dataclasses.replace(recipe, train_split="train[:50%]", validation_split="train[50%:]"), tfds_folder
    )
    assert (part.train_size, part.validation_size) == (10, 10)
    for split, shared in (("train[40%:]", 2), ("train[3:5]", 2)):
        with pytest.raises(InputError, match=rf"must not overlap, and share {shared} images"):
            data.load(
                dataclasses.replace(recipe, train_split="train[:50%]", validation_split=split), tfds_folder
            )


def test_a_version_that_is_not_there(tfds_folder):
    with pytest.raises(InputError, match=r"dataset shapes:9\.9\.9 cannot be opened: .*shapes"):
        data.load(plain("shapes:9.9.9", image_size=8, batch_size=5), data_dir=tfds_folder)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("no module named cv2"),
        download_manager.NonMatchingChecksumError("http://127.0.0.1/images.zip", "images.zip"),
    ],
)
def test_what_keeps_a_data_set_from_being_prepared(error, tmp_path, monkeypatch):
    def prepare(self):
        raise error

    monkeypatch.setattr(Shapes, "download_and_prepare", prepare)
    with pytest.raises(InputError, match=r"shapes cannot be downloaded and prepared: .*(cv2|images\.zip)"):
        data.load(plain("shapes", image_size=8, batch_size=5), data_dir=tmp_path)


def test_files_of_a_large_split_are_read_in_the_order_of_the_epoch(tmp_path, monkeypatch):
    """Their images come within a window, so a fixed order would never bring those of the last file first."""
    builder = Shapes(data_dir=tmp_path)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=5))
    assert len(builder.info.splits["train"].file_instructions) == 5
    recipe = plain("shapes", image_size=8, mean=(0.5,), std=(0.5,), batch_size=5, train_split="train[10%:]")
    size = builder.info.splits["train"].num_bytes
    monkeypatch.setattr(named, "SHUFFLED_BYTES", 0.2 * size)  # 4 images.

    def passes(count):
        loaded = data.load(recipe, data_dir=tmp_path)
        return [[int(image.mean()) for image in images_of(loaded.train)] for _ in range(count)]

    found = passes(4)
    assert found[:2] == passes(2)
    every = {value for order in found for value in order}
    assert len(every) == 18
    assert all(len(set(order)) == 15 for order in found)
    unshuffled = data.open_source(recipe, tmp_path).read(recipe.train_split).examples
    place = {int(tf.io.decode_png(image)[0, 0, 0]): i for i, (image, _) in enumerate(unshuffled)}
    assert set(place) == every
    assert max(place[value] - i for order in found for i, value in enumerate(order)) > 10


class Unlabelled(Shapes):
    """As test splits whose labels nobody may know."""

    def _generate_examples(self, start, stop):
        for i, example in super()._generate_examples(start, stop):
            yield i, {**example, "label": -1 if start else example["label"]}


def test_a_split_without_labels_is_refused(tmp_path):
    recipe = plain("unlabelled", image_size=8, mean=(0.5,), std=(0.5,), batch_size=5)
    for changes in ({}, {"train_split": "test", "validation_split": "train"}):
        loaded = data.load(dataclasses.replace(recipe, **changes), data_dir=tmp_path)
        assert len(labels_of(loaded.validation if changes else loaded.train)) == 20
        with (
            pytest.raises(InputError, match="labels must be from 0 to 1, got -1"),
            loaded.errors_named(),
        ):
            list(loaded.train if changes else loaded.validation)


def test_published_datasets_are_known():
    """tensorflow-datasets reads these names and features from its own files, without a network."""
    for name, classes in (("cifar10", 10), ("imagenet2012", 1000)):
        features = tfds.builder(name, data_dir="/nowhere").info.features
        assert features["label"].num_classes == classes


class Missing(Shapes):
    """A data set whose server does not have it."""

    url = None

    def _split_generators(self, dl_manager):
        dl_manager.download(self.url)


class ByHand(Shapes):
    """A data set that has to be downloaded by hand, as ImageNet."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "register, and save images.tar"

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, len(str(dl_manager.manual_dir)))}


@pytest.fixture
def empty_server(tmp_path):
    """The address of an HTTP server on loopback that has no file."""
    (tmp_path / "empty").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "empty")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_downloads_that_fail_say_why_in_one_line(empty_server, tmp_path, monkeypatch):
    monkeypatch.setattr(Missing, "url", f"{empty_server}/images.tar")
    for name, reason in (("missing", "404"), ("by_hand", "register, and save images.tar")):
        with pytest.raises(ValueError, match=f"dataset {name} cannot be downloaded.*{reason}") as raised:
            data.load(plain(name), data_dir=tmp_path)
        assert "\n" not in str(raised.value)
        assert "; a folder with its images as SPLIT/CLASS/*.jpg works as well" in str(raised.value)


def test_a_wrong_data_dir_is_not_made(tmp_path):
    with pytest.raises(InputError, match=r"data_dir must be an existing folder, got .*mistyped"):
        data.load(CIFAR10_FAST, data_dir=str(tmp_path / "mistyped"))
    assert not any(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(named, "DOWNLOAD_SECONDS", 0.2)
    plain_function = getattr(downloader._open_with_requests, "func", downloader._open_with_requests)
    monkeypatch.setattr(downloader, "_open_with_requests", plain_function)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(Missing, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/images.tar")
        with pytest.raises(ValueError, match=r"dataset missing cannot be downloaded.*timed out") as raised:
            data.load(plain("missing"), data_dir=tmp_path)
    assert "\n" not in str(raised.value)
    assert sum("Retrying" in record.getMessage() for record in caplog.records) == downloader.MAX_RETRIES == 4


def test_validation_alone_needs_no_training_split(image_folder, tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "test").symlink_to(image_folder / "val")
    loaded = data.load_validation(plain(tmp_path / "only", batch_size=100))
    assert loaded.size == 15
    assert len(labels_of(loaded.images)) == 15


def test_a_folder_is_shuffled_whole_and_anew(image_folder):
    loaded = data.load(plain(image_folder, batch_size=36))
    first, second = labels_of(loaded.train), labels_of(loaded.train)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.sort(second))  # Nothing is left out.


def test_nothing_is_read_before_its_batch(tmp_path, image_folder):
    """A file that changes between two epochs is seen in the second: no contents are kept."""
    shutil.copytree(image_folder, tmp_path / "photos")
    loaded = data.load(plain(tmp_path / "photos", batch_size=36))
    before = images_of(loaded.train)
    for path in (tmp_path / "photos/train").rglob("*.*"):
        Image.new("RGB", (40, 40), "white").save(path)
    assert before.mean() < 250 < images_of(loaded.train).mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dataset": "no_such_dataset"},
            "dataset must be digits, .* got 'no_such_dataset'",
        ),
        ({"dataset": "/no/such/folder"}, "dataset must be digits, an existing folder"),
        ({"train_split": "training"}, "has no split 'training'; it has: train, val"),
        ({"validation_split": "test"}, "has no split 'test'; it has: train, val"),
        ({"batch_size": 37}, "batch_size must be at most the 36 training images .* got 37"),
        ({"mean": (0.5, 0.5)}, "mean must have one value, or one for each of the 3 channels"),
    ],
)
def test_errors(image_folder, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(dataclasses.replace(plain(image_folder, batch_size=4), **changes))


def test_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match="SPLIT/CLASS"):
        data.load(plain(tmp_path))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="SPLIT/CLASS"):
        data.load(plain(tmp_path))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match="at least 2 photographs"):
        data.load(plain(tmp_path, batch_size=1))
    with pytest.raises(ValueError, match="has no split 'validation'; it has: train"):
        data.load(plain(tmp_path, batch_size=1, validation_share=0.0))
