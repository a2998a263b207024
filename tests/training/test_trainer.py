import csv
import dataclasses
import json
import os

import h5py
import keras
import numpy as np
import pytest
from small_runs import TINY, StopAfter, interrupt_after

from convmixer_keras import load_class_names
from convmixer_keras.models.weights import load_weights
from convmixer_keras.recipes import DIGITS, RECIPES
from convmixer_keras.training import trainer as training
from convmixer_keras.training.run import run_folder
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.training.step.network import build_model
from convmixer_keras.training.step.optimizer import build_optimizer


@pytest.fixture
def recipe(image_folder):
    return dataclasses.replace(TINY, dataset=str(image_folder))


def test_gradients_are_clipped_to_one_global_norm():
    recipe = dataclasses.replace(DIGITS, weight_decay=0.0)
    gradients = [np.full((3, 4), 2.0, np.float32), np.full((5,), -1.0, np.float32)]
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    model = build_model(recipe, 1, 10)
    optimizer = build_optimizer(recipe, model, total_steps=10)
    assert optimizer.global_clipnorm == 1.0
    for clipped, gradient in zip(optimizer._clip_gradients(gradients), gradients, strict=True):
        np.testing.assert_allclose(clipped, gradient / norm, rtol=1e-5)
    unlimited = build_optimizer(dataclasses.replace(recipe, clip_norm=0.0), model, total_steps=10)
    assert unlimited.global_clipnorm is None


@pytest.mark.slow
def test_callbacks_of_others_save_the_plain_model(recipe, tmp_path):
    """Whole models and weights alone, with averages in their places and a part that is frozen."""
    recipe = dataclasses.replace(recipe, epochs=2, ema_momentum=0.5)
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / "m.keras")),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "m.weights.h5"), save_weights_only=True),
        keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False),
    ]
    settings = Settings(freeze=1)
    training.train(recipe, tmp_path / "run", settings, callbacks=callbacks, verbose=0)
    last = keras.saving.load_model(tmp_path / "run" / "last.keras")
    saved = keras.saving.load_model(tmp_path / "m.keras")
    by_weights = build_model(recipe, 3, 3)
    load_weights(by_weights, tmp_path / "m.weights.h5")
    assert all(layer.trainable for layer in saved.layers)
    for model in (saved, by_weights):
        for one, other in zip(model.get_weights(), last.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_run_leaves_everything(recipe, tmp_path):
    output = tmp_path / "run"
    history = training.train(recipe, output, command="the command", verbose=0)
    assert sorted(os.listdir(output)) == sorted(
        [
            run_folder.BEST_MODEL,
            run_folder.LAST_MODEL,
            run_folder.CONFIG,
            run_folder.HISTORY,
            run_folder.CURVES,
            run_folder.TENSORBOARD,
            run_folder.CHECKPOINT,
        ]
    )
    assert [row["epoch"] for row in history] == [1, 2, 3]
    with open(output / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in history]
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-6)

    config = json.loads((output / "config.json").read_text())
    assert config["command"] == "the command"
    assert config["recipe"]["hidden_dim"] == 8
    assert config["versions"]["keras"] == keras.__version__
    assert config["class_names"] == ["blue", "green", "red"]

    from convmixer_keras.data import pipeline as data

    validation = data.load_validation(recipe).images
    images = np.concatenate([x for x, _ in validation])
    labels = np.concatenate([y for _, y in validation]).argmax(1)
    for name, row in (
        ("last.keras", history[-1]),
        ("model.keras", max(history, key=lambda r: r["val_accuracy"])),
    ):
        model = keras.saving.load_model(output / name)  # takes raw pixels
        accuracy = (model.predict(images, verbose=0).argmax(1) == labels).mean()
        assert accuracy == pytest.approx(row["val_accuracy"])
        assert all(type(layer).__module__.startswith("keras") for layer in model.layers)
        assert load_class_names(output / name) == ["blue", "green", "red"]
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"ema_momentum": 0.9}, {"ema_momentum": 0.9, "dtype_policy": "mixed_float16"}]
)
def test_a_resumed_run_ends_like_one_that_never_stopped(recipe, tmp_path, monkeypatch, changes):
    recipe = dataclasses.replace(recipe, epochs=4, **changes)
    straight = training.train(recipe, tmp_path / "straight", verbose=0)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(StopAfter):
            training.train(recipe, tmp_path / "stopped", verbose=0)
    resumed = training.train(recipe, tmp_path / "stopped", resume=True, verbose=0)
    assert [row["epoch"] for row in resumed] == [1, 2, 3, 4]
    for ours, theirs in zip(resumed, straight, strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)
        assert ours["learning_rate"] == theirs["learning_rate"]
    for name in ("model.keras", "last.keras"):
        weights = [
            keras.saving.load_model(tmp_path / run / name).get_weights() for run in ("straight", "stopped")
        ]
        for ours, theirs in zip(*weights, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_averaged_weights_are_what_is_saved(recipe, tmp_path):
    """Two runs that differ in the average alone: the one saves it, the other its last weights.

    The checkpoints of both have the last weights, so that more epochs go on from these.
    """
    recipe = dataclasses.replace(recipe, ema_momentum=0.8, epochs=2)
    training.train(recipe, tmp_path / "run", verbose=0)
    plain = dataclasses.replace(recipe, ema_momentum=0.0)
    training.train(plain, tmp_path / "plain", verbose=0)
    averaged, last = (
        keras.saving.load_model(tmp_path / run / "last.keras").get_layer("head").get_weights()[0]
        for run in ("run", "plain")
    )
    assert not np.allclose(averaged, last, atol=1e-4)
    checkpoints = [h5py.File(tmp_path / run / run_folder.CHECKPOINT)["weights"] for run in ("run", "plain")]
    kernels = [checkpoint["head/kernel"][()] for checkpoint in checkpoints]
    np.testing.assert_allclose(*kernels, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_average_is_at_least_as_good_as_the_last_weights(tmp_path):
    """Without averaged statistics it would recognise 60 % of the digits."""
    recipe = dataclasses.replace(RECIPES["digits"], epochs=8)
    accuracies = []
    for momentum in (0.99, 0.0):
        changed = dataclasses.replace(recipe, ema_momentum=momentum)
        history = training.train(changed, tmp_path / str(momentum), verbose=0)
        accuracies.append(history[-1]["val_accuracy"])
    averaged, last = accuracies
    assert averaged >= last
    assert averaged > 0.97


@pytest.mark.parametrize("policy", [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"])
@pytest.mark.slow
def test_mixed_precision_learns(recipe, tmp_path, policy):
    recipe = dataclasses.replace(recipe, dtype_policy=policy, epochs=8)
    history = training.train(recipe, tmp_path / "run", verbose=0)
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["val_accuracy"] > 0.6


@pytest.mark.slow
def test_the_imagenet_recipe_runs_whole(image_folder, tmp_path):
    """Mixed precision, every augmentation, averaged weights: at a small size."""
    small = {"image_size": 28, "hidden_dim": 8, "depth": 1, "batch_size": 12, "epochs": 2}
    recipe = dataclasses.replace(RECIPES["imagenet"], dataset=str(image_folder), ema_momentum=0.5, **small)
    history = training.train(recipe, tmp_path / "run", verbose=0)
    assert all(np.isfinite(value) for row in history for value in row.values())


@pytest.mark.slow
def test_steps_per_execution_changes_nothing(recipe, tmp_path):
    runs = [
        training.train(recipe, tmp_path / str(steps), Settings(steps_per_execution=steps), verbose=0)
        for steps in (1, 4)
    ]
    for ours, theirs in zip(*runs, strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)


def test_settings_that_cannot_be_run(recipe, tmp_path):
    with pytest.raises(ValueError, match="steps_per_execution must be 1 with strategy mirrored, got 2"):
        training.train(recipe, tmp_path / "run", Settings(strategy="mirrored", steps_per_execution=2))
    with pytest.raises(ValueError, match="checkpoint_every must be at least 0, got -1"):
        Settings(checkpoint_every=-1)
    with pytest.raises(ValueError, match=r"strategy must be one of auto, one, .* got 'two'"):
        Settings(strategy="two")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_frozen_and_buildable(name):
    recipe = RECIPES[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 1
    small = dataclasses.replace(recipe, hidden_dim=8, depth=1)
    model = build_model(small, len(recipe.mean), 10)
    assert model.input_shape == (None, recipe.image_size, recipe.image_size, len(recipe.mean))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be at least 0 and at most 1, got 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be at least 1e-06 and at most 1, got 0.2 0.0 0.2"),
        (
            {"crop_area": (1.0, 0.5)},
            r"crop_area must be two .* the least and then the greatest, got 1\.0 0\.5",
        ),
        ({"mixup_alpha": -1.0}, "mixup_alpha must be at least 0, got -1.0"),
        ({"dtype_policy": "half"}, "dtype_policy must be one of float32, .* got 'half'"),
    ],
)
def test_recipes_refuse_what_cannot_be_run(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DIGITS, **changes)


def test_imagenet_recipe_is_the_authors():
    recipe = RECIPES["imagenet"]
    stated = {
        "learning_rate": 0.01,
        "epsilon": 1e-3,
        "weight_decay": 2e-5,
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
        "mixup_alpha": 0.5,
        "cutmix_alpha": 0.5,
        "randaugment_ops": 2,
        "randaugment_magnitude": 9.0,
        "randaugment_std": 0.5,
        "erasing_probability": 0.25,
        "crop_area": (0.08, 1.0),
        "crop_ratio": (3 / 4, 4 / 3),
        "batch_size": 640,
        "epochs": 150,
        "flip": True,
    }
    assert {name: getattr(recipe, name) for name in stated} == stated
