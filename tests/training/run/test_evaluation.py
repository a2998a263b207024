import dataclasses
import re
import shutil
import zipfile

import keras
import numpy as np
import pytest
import torch
import torch_reference
from conftest import CIFAR10
from hub_server import hub  # noqa: F401
from scipy.special import softmax
from sklearn.metrics import log_loss, precision_recall_fscore_support

import convmixer_keras as ck
from convmixer_keras import recipes
from convmixer_keras.commands import train
from convmixer_keras.convert.weights import to_keras
from convmixer_keras.data import pipeline as data
from convmixer_keras.images.listing import image_paths
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.training.run import evaluation
from convmixer_keras.utils.errors import InputError

RECIPE = dataclasses.replace(recipes.DIGITS, batch_size=100)
SIZES = {"hidden_dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "classes": 10}


def by_hand(model, images, labels):
    """Cross-entropy, top-1 and top-5 in NumPy."""
    logits = model.predict(images, verbose=0).astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
    return -log_probabilities[np.arange(len(labels)), labels].mean(), (ranks < 1).mean(), (ranks < 5).mean()


@pytest.fixture(scope="module")
def digits():
    pairs = [(x.numpy(), y.numpy()) for x, y in data.load_validation(RECIPE).images]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs]).argmax(1)


@pytest.mark.parametrize("raw_pixels", [True, False])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_scores_equal_those_by_hand(digits, raw_pixels, activation, tmp_path):
    images, labels = digits
    statistics = {"input_mean": 255 * 0.306, "input_std": 255 * 0.377} if raw_pixels else {}
    model = ck.ConvMixer(**SIZES, input_shape=(8, 8, 1), classifier_activation=activation, **statistics)
    ck.save_model(model, tmp_path / "m.keras", [str(i) for i in range(10)])
    logits = ck.ConvMixer(**SIZES, input_shape=(8, 8, 1))
    logits.set_weights(model.get_weights())
    expected = by_hand(logits, (images / 255 - 0.306) / 0.377, labels)
    scores = evaluation.evaluate(tmp_path / "m.keras", RECIPE)
    np.testing.assert_allclose(scores[:3], expected, rtol=1e-4)
    assert scores.images == 360


def test_a_free_image_size_takes_the_recipes(tmp_path, capsys):
    model = ck.ConvMixer(**SIZES, input_shape=(None, None, 1), input_mean=80, input_std=90)
    ck.save_model(model, tmp_path / "m.keras")
    scores = evaluation.evaluate(tmp_path / "m.keras", dataclasses.replace(RECIPE, image_size=12))
    assert scores.images == 360
    assert "12x12" in capsys.readouterr().err


def test_another_size_than_the_models_own(image_folder, tmp_path):
    """As PyTorch's network computes at that size, which takes any."""
    reference = torch_reference.random_model("timm", 8, 2, 5, 4, n=3)
    torch.save(reference.state_dict(), tmp_path / "m.pth")
    model = to_keras.convert_checkpoint(tmp_path / "m.pth", activation="gelu", image_size=16)
    record = Preprocessing(16, 3, 0.8, mean=(0.5, 0.4, 0.3), std=0.2)
    names = ["blue", "green", "red"]
    ck.save_model(model, tmp_path / "m.keras", names, record)
    recipe = dataclasses.replace(recipes.PHOTOS, dataset=str(image_folder))
    files = [path for name in names for path in image_paths(image_folder / "val" / name)]
    for size in (16, 26):  # The second is no multiple of the patch.
        at_size = dataclasses.replace(record, size=size)
        logits = torch_reference.logits(reference, np.stack([at_size(path) for path in files]))
        found = evaluation.evaluate(tmp_path / "m.keras", recipe, changes={"size": size})
        labels = np.repeat([0, 1, 2], 5)
        assert found.top1 == np.mean(logits.argmax(1) == labels)
        assert found.loss == pytest.approx(log_loss(labels, softmax(logits, 1)), rel=1e-3)
    flat = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    )
    flat.save(tmp_path / "flat.keras")
    with pytest.raises(InputError, match=r"flat\.keras cannot be run in float32 on images of 16x16"):
        evaluation.evaluate(tmp_path / "flat.keras", recipe, changes={"size": 16})


@pytest.mark.parametrize(
    ("options", "names", "message"),
    [
        ({"classes": 7}, None, "knows 7 classes, but digits has 10"),
        ({"input_shape": (8, 8, 3)}, None, "takes 3 channels, but images of digits have 1"),
        ({}, [*"012345678", "nine"], "knows a class 'nine' where digits has '9'"),
    ],
)
def test_models_that_do_not_fit(options, names, message, tmp_path):
    model = ck.ConvMixer(**{**SIZES, "input_shape": (8, 8, 1), **options})
    ck.save_model(model, tmp_path / "m.keras", names)
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(tmp_path / "m.keras", RECIPE)


def test_models_that_are_no_classifiers(tmp_path):
    features = ck.ConvMixer(8, 1, 3, 2, include_top=False, input_shape=(8, 8, 1))
    ck.save_model(features, tmp_path / "features.keras")
    with pytest.raises(ValueError, match=r"features.keras gives features of the shape \(4, 4, 8\)"):
        evaluation.evaluate(tmp_path / "features.keras", RECIPE)
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match=r"must take images \(height, width, channels\), and takes"):
        evaluation.evaluate(tmp_path / "dense.keras", RECIPE)


def normalised(**options):
    return ck.ConvMixer(
        **SIZES, input_shape=(8, 8, 1), input_mean=255 * 0.306, input_std=255 * 0.377, **options
    )


def test_a_nested_model_is_normalised_once(digits, tmp_path):
    inner = normalised()
    image = keras.Input((8, 8, 1))
    ck.save_model(inner, tmp_path / "inner.keras")

    for name, outer in (
        ("nested", keras.Model(image, inner(image))),
        ("softmax", keras.Model(image, keras.layers.Softmax()(inner(image)))),
    ):
        ck.save_model(outer, tmp_path / f"{name}.keras")
        ours = evaluation.evaluate(tmp_path / f"{name}.keras", RECIPE)
        np.testing.assert_allclose(
            ours[:3], evaluation.evaluate(tmp_path / "inner.keras", RECIPE)[:3], rtol=1e-4
        )


def test_three_means_on_grey_images(tmp_path):
    """ImageNet's statistics on one channel count as their mean."""
    ck.save_model(ck.ConvMixer(**SIZES, input_shape=(8, 8, 1)), tmp_path / "m.keras")
    three = dataclasses.replace(RECIPE, mean=(0.2, 0.3, 0.4), std=(0.3, 0.3, 0.3))
    one = dataclasses.replace(RECIPE, mean=(0.3,), std=(0.3,))
    np.testing.assert_allclose(
        *(evaluation.evaluate(tmp_path / "m.keras", recipe)[:3] for recipe in (three, one)), rtol=1e-5
    )


def test_which_class_is_taken_for_which(digits, tmp_path):
    images, labels = digits
    model = normalised()
    ck.save_model(model, tmp_path / "m.keras")
    scores = evaluation.evaluate(tmp_path / "m.keras", RECIPE)
    found = model.predict(images, verbose=0).argmax(1)
    expected = np.zeros((10, 10), int)
    for is_, taken_for in zip(labels, found, strict=True):
        expected[is_, taken_for] += 1
    np.testing.assert_array_equal(scores.confusion, expected)
    of_classes = precision_recall_fscore_support(labels, found, zero_division=0)[:3]
    np.testing.assert_allclose(scores.of_classes(), of_classes)
    assert scores.split == "test"


def test_the_most_confident_mistakes(digits, tmp_path):
    images, labels = digits
    model = normalised()
    ck.save_model(model, tmp_path / "m.keras")
    scores = evaluation.evaluate(tmp_path / "m.keras", RECIPE)
    logits = model.predict(images, verbose=0)
    highest, found = np.sort(softmax(logits, 1), 1)[:, -1], logits.argmax(1)
    wrong = sorted(np.flatnonzero(found != labels), key=lambda i: -highest[i])[:48]
    assert [mistake.image for mistake in scores.mistakes] == wrong
    np.testing.assert_array_equal([m[1:3] for m in scores.mistakes], np.stack([labels, found], 1)[wrong])
    np.testing.assert_allclose([m.probability for m in scores.mistakes], highest[wrong], rtol=1e-5)
    named = scores.named_images([3, 300])
    assert [name for name, _ in named.values()] == ["image 3", "image 300"]
    np.testing.assert_array_equal(named[300][1], images[300])


def test_damaged_files_are_left_out(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "photos")
    (tmp_path / "photos/val/red/0.png").write_bytes(b"no image")
    recipe = dataclasses.replace(
        RECIPE, dataset=str(tmp_path / "photos"), image_size=8, mean=(0.5,), std=(0.2,)
    )
    model = ck.ConvMixer(**{**SIZES, "classes": 3}, input_shape=(8, 8, 3), input_mean=127, input_std=60)
    ck.save_model(model, tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"1 of 15 image files(.|\n)*red/0\.png as an image: it is in no"):
        evaluation.evaluate(tmp_path / "m.keras", recipe)
    with pytest.warns(UserWarning, match=r"red/0\.png .*it is left out"):
        assert evaluation.evaluate(tmp_path / "m.keras", recipe, max_bad_images=1).images == 14


def test_class_names_of_another_number(tmp_path):
    ck.save_model(normalised(), tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras", "a") as archive:
        archive.writestr("class_names.json", '["0", "1"]')
    with pytest.raises(ValueError, match="has 10 classes, and the names of 2"):
        evaluation.evaluate(tmp_path / "m.keras", RECIPE)


@pytest.mark.parametrize("constant", [False, True])
def test_the_metrics_of_a_run_are_those_of_an_evaluation(constant, digits, tmp_path):
    """Also where scores are equal, of which TensorFlow's own top-5 counts all."""
    images, labels = digits
    model = normalised()
    if constant:
        model.get_layer("head").set_weights([np.zeros((8, 10)), np.zeros(10)])
    ck.save_model(model, tmp_path / "m.keras")
    ck.training.compile_model(model, "sgd", 10)
    found = model.evaluate(images, np.eye(10)[labels], verbose=0, return_dict=True)
    ours = evaluation.evaluate(tmp_path / "m.keras", RECIPE)
    np.testing.assert_allclose([found["loss"], found["accuracy"], found["top5"]], ours[:3], rtol=1e-5)
    if constant:
        assert ours.top5 == np.mean(labels < 5)


def test_what_a_file_without_a_record_takes_is_said(tmp_path, here):
    normalised().save(tmp_path / "m.keras")
    flags = ["--evaluate", tmp_path / "m.keras", "--dataset", "digits"]
    note = "m.keras does not record its preprocessing; using"
    assert f"{note} 8x8, crop_pct 1, bicubic" in here(train.main, *flags).stderr
    named = here(train.main, *flags, "--recipe", "imagenet")
    assert f"{note} the recipe's 8x8, crop_pct 0.96, bicubic, turned" in named.stderr
    ck.ConvMixer(**SIZES, input_shape=(8, 8, 1)).save(tmp_path / "m.keras")
    asked = here(train.main, *flags)
    assert (asked.code, "give --mean and --std" in asked.stderr) == (2, True)


@pytest.mark.slow
def test_names_of_models_are_evaluated(cifar10_folder, tmp_path, here, hub, monkeypatch):  # noqa: F811
    """A builder's, and a hub's repository; a run in the current folder is not theirs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"recipe": {}}')
    flags = ["--dataset", cifar10_folder]
    known = here(train.main, "--evaluate", "ConvMixer256_8_P2", *flags)
    assert "ConvMixer256_8_P2 on " in known.stdout
    model = ck.ConvMixer256_8_P2(weights="cifar10", include_preprocessing=True)
    ck.save_model(model, tmp_path / "m.keras", CIFAR10, Preprocessing(32))
    hub.put("user/repo", {"model.keras": (tmp_path / "m.keras").read_bytes()})
    fetched = here(train.main, "--evaluate", "hf://user/repo", *flags)
    scores = [re.search(r"loss .*", outcome.stdout)[0] for outcome in (known, fetched)]
    assert scores[0] == scores[1]
