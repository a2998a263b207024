"""Fine-tuning: the head first and alone, then all of it, with BatchNorm's statistics kept."""

import dataclasses
import json
import os
import re
import signal

import keras
import numpy as np
import pytest
from small_models import build

import convmixer_keras as ck
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.training.processes.termination import Terminated
from convmixer_keras.training.run import run_folder
from convmixer_keras.training.step import head, network
from convmixer_keras.utils.errors import Failure, InputError

CLASSES = ["blue", "green", "red"]


@pytest.fixture
def body(tmp_path):
    keras.utils.set_random_seed(0)
    model = build(
        hidden_dim=8,
        depth=2,
        kernel_size=3,
        patch_size=4,
        input_shape=(16, 16, 3),
        input_mean=120,
        input_std=60,
    )
    ck.save_model(model, tmp_path / "body.keras", list("abcde"), Preprocessing(16, crop_pct=0.9))
    return model


@pytest.fixture
def recipe(body, image_folder, tmp_path):
    facts = network.facts_of_body(tmp_path / "body.keras")
    return dataclasses.replace(
        ck.recipes.RECIPES["finetune"],
        dataset=str(image_folder),
        batch_size=6,
        epochs=2,
        head_epochs=60,
        head_learning_rate=0.03,
        **facts,
    )


def tune(recipe, tmp_path, capsys, **settings):
    """Trains and returns the last model, the history, and the line about the head."""
    settings = ck.training.Settings(init_from=str(tmp_path / "body.keras"), **settings)
    history = ck.training.train(recipe, tmp_path / "run", settings, verbose=2)
    line = re.search(r"^head: .*", capsys.readouterr().out, re.MULTILINE)
    return keras.saving.load_model(tmp_path / "run/last.keras"), history, line and line[0]


@pytest.mark.slow
def test_a_rate_of_0_leaves_the_head_that_learnt_alone(recipe, body, image_folder, tmp_path, capsys):
    recipe = dataclasses.replace(recipe, learning_rate=0.0, epochs=1)
    model, (row,), line = tune(recipe, tmp_path, capsys)
    accuracy = re.fullmatch(
        r"head: 60 epochs on the features of 36 images, validation accuracy (\d+\.\d\d) %", line
    )[1]
    assert float(accuracy) == pytest.approx(100 * row["val_accuracy"], abs=0.01)
    assert row["val_accuracy"] > 0.6  # Three colours, of which chance knows a third.
    # As by hand: the head on the pooled features of the body, of each photograph as evaluation prepares it.
    folders = [(number, image_folder / "train" / name) for number, name in enumerate(CLASSES)]
    files = [(path, number) for number, folder in folders for path in folder.iterdir()]
    pixels = np.stack([Preprocessing(16, crop_pct=0.9)(path) for path, _ in files])
    features = ck.features(body, 1).predict(pixels, verbose=0).mean((1, 2))
    kernel, bias = model.get_layer("head").get_weights()
    logits = features @ kernel + bias
    assert (logits.argmax(1) == [number for _, number in files]).mean() > 0.6
    for layer in body.layers[:-1]:
        for before, after in zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_all_of_it_moves_but_batchnorms_statistics(recipe, body, tmp_path, capsys):
    model, history, _ = tune(dataclasses.replace(recipe, learning_rate=0.01), tmp_path, capsys)
    for layer in body.layers[1:-1]:
        if layer.weights:
            moved = [
                not np.array_equal(before, after)
                for before, after in zip(
                    layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True
                )
            ]
            statistics = isinstance(layer, keras.layers.BatchNormalization)
            assert moved == ([True, True, False, False] if statistics else [True, True]), layer.name
    assert "top5" not in history[0]  # Of three classes.


@pytest.mark.slow
def test_the_body_computes_each_image_once(recipe, tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        head.progress, "shown", lambda batches, *_: (seen.append(len(b[0])) or b for b in batches)
    )
    tune(dataclasses.replace(recipe, epochs=1), tmp_path, capsys)
    assert sum(seen) == 36 + 15
    monkeypatch.setattr(head, "MOST_VALUES", 8 * 12)
    seen.clear()
    (tmp_path / "run").rename(tmp_path / "first")
    line = tune(dataclasses.replace(recipe, epochs=1), tmp_path, capsys)[2]
    assert sum(seen) == 12 + 12  # No more than what may be kept.
    assert "of 12 images" in line


def test_the_same_classes_keep_their_head(recipe, body, tmp_path, capsys):
    known = build(
        hidden_dim=8, depth=2, kernel_size=3, patch_size=4, classes=3, input_shape=(16, 16, 3),
        input_mean=120, input_std=60,
    )  # fmt: skip
    ck.save_model(known, tmp_path / "body.keras", ["red", "green", "blue"], Preprocessing(16, crop_pct=0.9))
    model, _, line = tune(dataclasses.replace(recipe, learning_rate=0.0, epochs=1), tmp_path, capsys)
    assert line == "head: the body's, which knows these classes"
    for before, after in zip(
        known.get_layer("head").get_weights(), model.get_layer("head").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(before[..., ::-1], after)


@pytest.mark.slow
def test_balanced_classes_weigh_alike(recipe, image_folder, tmp_path, capsys, monkeypatch):
    weights = []
    fit = keras.Sequential.fit

    def noted(self, *arguments, **options):
        weights.append(options["sample_weight"])
        return fit(self, *arguments, **options)

    monkeypatch.setattr(keras.Sequential, "fit", noted)
    few = tmp_path / "few"
    for name, count in zip(CLASSES, (12, 6, 3), strict=True):
        (few / name).mkdir(parents=True)
        for path in sorted((image_folder / "train" / name).iterdir())[:count]:
            (few / name / path.name).symlink_to(path)
    recipe = dataclasses.replace(
        recipe, dataset=str(few), class_weight="balanced", epochs=1, validation_share=0.3
    )
    tune(recipe, tmp_path, capsys)
    # Of 12, 6 and 3 photographs, 4, 2 and 1 are held out.
    np.testing.assert_allclose(np.unique(weights[0]), np.sort(14 / (3 * np.array([8, 4, 2]))), rtol=1e-6)


@pytest.mark.slow
def test_a_run_that_ended_in_its_head_does_not_block_the_next(recipe, tmp_path, capsys, monkeypatch):
    def ended(*_, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keras.Sequential, "fit", ended)
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, tmp_path, capsys)
    assert (tmp_path / "run" / run_folder.CONFIG).exists()
    settings = ck.training.Settings(init_from=str(tmp_path / "body.keras"))
    with pytest.raises(InputError, match="to go on from: start again without"):
        ck.training.train(recipe, tmp_path / "run", settings, resume=True, verbose=0)
    _, history, _ = tune(recipe, tmp_path, capsys)
    assert len(history) == 2
    assert json.loads((tmp_path / "run" / run_folder.CONFIG).read_text())["recipe"]["head_epochs"] == 60


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_head(number, recipe, tmp_path, capsys, monkeypatch):
    def sent(batches, *_):
        for batch in batches:
            yield batch
            os.kill(os.getpid(), number)

    monkeypatch.setattr(head.progress, "shown", sent)
    kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    with pytest.raises(kind, match="ended before the first step") as ended:
        tune(recipe, tmp_path, capsys)
    assert ended.value.resumable is False


def test_a_head_needs_a_body(recipe, tmp_path):
    with pytest.raises(InputError, match="head_epochs must be 0 without init_from, got 60"):
        ck.training.train(recipe, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_head_that_overflows_is_no_accuracy(recipe, tmp_path, capsys):
    recipe = dataclasses.replace(recipe, head_learning_rate=1e38)
    with pytest.raises(
        Failure, match=r"head's weights are NaN or infinite: head_learning_rate 1e\+38 is too high"
    ):
        tune(recipe, tmp_path, capsys)
