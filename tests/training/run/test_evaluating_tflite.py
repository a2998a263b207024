"""`.tflite` files under --evaluate: of this package, and of other programs."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.metrics import accuracy_score, log_loss

import convmixer_keras as ck
from convmixer_keras import recipes
from convmixer_keras.commands import train as command
from convmixer_keras.convert.export.runtime import Classifier
from convmixer_keras.data import pipeline
from convmixer_keras.images.class_names import imagenet_classes
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.training.run import evaluation
from convmixer_keras.utils.errors import InputError

RECIPE = dataclasses.replace(recipes.DIGITS, batch_size=100)


@pytest.fixture(scope="module")
def digits():
    pairs = [(x.numpy(), y.numpy()) for x, y in pipeline.load_validation(RECIPE).images]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs]).argmax(1)


def dense(activation=None, head=None, shape=(8, 8, 1), classes=10):
    """A small network of another program, whose weights give every image another score."""
    image = keras.Input(shape)
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    layer = keras.layers.Dense(
        classes, activation, kernel_initializer=keras.initializers.RandomNormal(0, 1, 3)
    )
    model = keras.Model(image, layer(x))
    if head is not None:
        layer.set_weights([np.full_like(weight, head) for weight in layer.get_weights()])
    return model


def saved(model, folder, batch=1):
    """The model as the stock converter writes it."""
    path = folder / "foreign.tflite"
    if batch is not None:
        image = keras.Input(batch_shape=(batch, *model.input_shape[1:]))
        model = keras.Model(image, model(image))
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


@pytest.mark.parametrize("ending", ["keras", "tflite"])
def test_a_constant_model_is_right_once_in_ten(ending, digits, tmp_path):
    model = dense("softmax", head=0.0)
    path = tmp_path / "foreign.keras"
    model.save(path)
    path = saved(model, tmp_path) if ending == "tflite" else path
    found = evaluation.evaluate(path, RECIPE)
    assert found.top1 == np.mean(digits[1] == 0)
    assert found.top5 == np.mean(digits[1] < 5)
    assert found.confusion[:, 0].sum() == 360


@pytest.mark.parametrize("ending", ["keras", "tflite"])
def test_a_model_of_nan_is_an_error_that_names_the_file(ending, tmp_path):
    model = dense("softmax", head=np.nan)
    path = tmp_path / "foreign.keras"
    model.save(path)
    path = saved(model, tmp_path) if ending == "tflite" else path
    with pytest.raises(InputError, match=rf"foreign\.{ending} gives NaN or infinity"):
        evaluation.evaluate(path, RECIPE)
    with pytest.raises(InputError, match=rf"foreign\.{ending} gives NaN or infinity"):
        ck.inference.load(path).top(np.zeros((8, 8, 1)))


def test_logits_of_another_program_are_asked_about(digits, tmp_path, capsys):
    model, (images, labels) = dense(), digits
    path = saved(model, tmp_path, batch=None)  # Its batch is free, which is no fault.
    with pytest.raises(InputError, match="do not add up to 1 as probabilities do: scores must say logits"):
        evaluation.evaluate(path, RECIPE)
    logits = model.predict(images, verbose=0).astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = powers / powers.sum(1, keepdims=True)
    found = evaluation.evaluate(path, RECIPE, scores="logits")
    assert found.loss == pytest.approx(log_loss(labels, probabilities), rel=1e-4)
    assert found.top1 == accuracy_score(labels, logits.argmax(1))
    assert command.main(["--evaluate", str(path), "--dataset", "digits", "--scores", "logits"]) == 0
    assert f"top-1 {100 * found.top1:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["keras", "tflite"])
def test_sigmoids_are_evaluated_as_they_are(ending, digits, tmp_path):
    """The loss is Keras' own of such a head: of the truth's share of the sigmoids."""
    model, (images, labels) = dense("sigmoid"), digits
    path = tmp_path / "foreign.keras"
    model.save(path)
    path = saved(model, tmp_path) if ending == "tflite" else path
    found = evaluation.evaluate(path, RECIPE, scores="probabilities")
    predicted = model.predict(images, verbose=0)
    loss = keras.losses.categorical_crossentropy(np.eye(10, dtype=np.float32)[labels], predicted)
    assert found.loss == pytest.approx(float(np.mean(loss)), rel=1e-3)
    assert found.top1 == accuracy_score(labels, predicted.argmax(1))


def of_maps():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, keras.layers.Conv2D(10, 3)(image))


def of_any_size():
    image = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(10, "softmax")(pooled))


def of_two_outputs():
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    return keras.Model(image, [keras.layers.Dense(10)(flat), keras.layers.Dense(3)(flat)])


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (of_maps, 1, "gives features, and no score for each class"),
        (
            of_any_size,
            None,
            r"must take images \(batch, height, width, channels\), and takes \[-1, -1, -1, 1\]",
        ),
        (of_two_outputs, None, "must have one input and one output, and has 1 and 2"),
    ],
)
def test_files_of_another_kind_are_refused_by_name(model, batch, message, tmp_path):
    path = saved(model(), tmp_path, batch)
    with pytest.raises(InputError, match=rf"foreign\.tflite {message}"):
        evaluation.evaluate(path, RECIPE)


def test_flags_are_obeyed_for_a_file_without_a_record(image_folder, tmp_path, capsys):
    """Against Pillow by way of `Preprocessing`, on the files of the folder."""
    model = dense("softmax", shape=(8, 8, 3), classes=3)
    path = saved(model, tmp_path)
    flags = ["--evaluate", path, "--dataset", image_folder, "--crop-pct", 0.5, "--interpolation", "nearest"]
    assert command.main([str(flag) for flag in flags]) == 0
    printed = capsys.readouterr().out
    record = Preprocessing(8, 3, 0.5, "nearest")
    names = ("blue", "green", "red")
    files = [(p, i) for i, name in enumerate(names) for p in sorted((image_folder / "val" / name).iterdir())]
    probabilities = model.predict(np.stack([record(file) for file, _ in files]), verbose=0).astype(np.float64)
    loss = log_loss([label for _, label in files], probabilities, labels=range(3))
    assert f"loss {loss:.4f}" in printed
    assert Classifier(path, crop_pct=0.5, interpolation="nearest").preprocessing == record


@pytest.mark.parametrize("ending", ["keras", "tflite"])
def test_folders_named_by_wordnet_ids(ending, image_folder, tmp_path):
    """As ImageNet's own folders are, where a converted model knows the words."""
    folder = tmp_path / "imagenet"
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        for (wordnet_id, _), name in zip(imagenet_classes(), ("red", "green", "blue"), strict=False):
            (folder / split / wordnet_id).symlink_to(image_folder / split / name)
    words = [name for _, name in imagenet_classes()[:3]]
    model = ck.ConvMixer(8, 1, 3, 4, classes=3, input_shape=(8, 8, 3), input_mean=127, input_std=60)
    path = tmp_path / f"m.{ending}"
    if ending == "keras":
        ck.save_model(model, path, words, Preprocessing(8))
    else:
        from convmixer_keras.convert.export import tflite

        tflite.export(model, path, labels=words, preprocessing=Preprocessing(8))
    recipe = dataclasses.replace(recipes.PHOTOS, dataset=str(folder))
    assert evaluation.evaluate(path, recipe).images == 15
    words[1] = "goldfinch"
    if ending == "keras":
        ck.save_model(model, path, words, Preprocessing(8))
        with pytest.raises(InputError, match=r"knows a class 'goldfinch' where .* has 'n01443537'"):
            evaluation.evaluate(path, recipe)


class Wordnet(tfds.core.GeneratorBasedBuilder):
    """Images in three of ImageNet's classes; those of the split `test` have no labels."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = None  # No package to read a description from.
    LABEL = tfds.features.ClassLabel(names=[wordnet_id for wordnet_id, _ in imagenet_classes()[:3]])

    def _info(self):
        features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": self.LABEL}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

    def _generate_examples(self, split):
        random = np.random.default_rng(0)
        for i in range(6):
            image = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            yield i, {"image": image, "label": self.label(i, split)}

    def label(self, i, split):
        return -1 if split == "test" else i % 3


class Listed(Wordnet):
    LABEL = tfds.features.Sequence(Wordnet.LABEL)

    def label(self, i, split):
        return [i % 3]


@pytest.mark.parametrize("ending", ["keras", "tflite"])
def test_labels_of_tensorflow_datasets(ending, tmp_path):
    Wordnet(data_dir=tmp_path).download_and_prepare()
    words = [name for _, name in imagenet_classes()[:3]]
    model = dense("softmax", shape=(8, 8, 3), classes=3)
    path = tmp_path / "foreign.keras"
    ck.save_model(model, path, words, Preprocessing(8))
    path = saved(model, tmp_path) if ending == "tflite" else path
    recipe = dataclasses.replace(recipes.PHOTOS, dataset="wordnet", batch_size=4)
    images = np.stack(
        [example["image"] for _, example in Wordnet(data_dir=tmp_path)._generate_examples("train")]
    )
    expected = model.predict(images.astype(np.float32), verbose=0)
    found = evaluation.evaluate(path, recipe, tmp_path)
    assert found.top1 == accuracy_score(np.arange(6) % 3, expected.argmax(1))
    with pytest.raises(InputError, match="labels must be from 0 to 2, got -1"):
        evaluation.evaluate(path, dataclasses.replace(recipe, validation_split="test"), tmp_path)


def test_lists_of_labels_are_refused(tmp_path):
    Listed(data_dir=tmp_path).download_and_prepare()
    dense("softmax", shape=(8, 8, 3), classes=3).save(tmp_path / "m.keras")
    recipe = dataclasses.replace(recipes.PHOTOS, dataset="listed")
    with pytest.raises(
        InputError, match=r"one class label each, but has image \(Image\), label \(Sequence\)"
    ):
        evaluation.evaluate(tmp_path / "m.keras", recipe, tmp_path)


def test_a_network_that_gives_one_number_is_refused(tmp_path):
    image = keras.Input(batch_shape=(1, 8, 8, 1))
    scores = keras.layers.Dense(10)(keras.layers.Flatten()(image))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(image, keras.ops.max(scores, -1)))
    (tmp_path / "foreign.tflite").write_bytes(converter.convert())
    with pytest.raises(InputError, match=r"foreign\.tflite must give scores of each image \(1, classes\)"):
        evaluation.evaluate(tmp_path / "foreign.tflite", RECIPE)
