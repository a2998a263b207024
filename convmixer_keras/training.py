"""Compile and fit: optimizer, schedule, callbacks, and what a run leaves behind."""

import dataclasses
import importlib.metadata
import os
import platform
import time

import h5py
import keras

from convmixer_keras import data as data_module
from convmixer_keras import run_folder, visualization
from convmixer_keras.complexity import model_complexity
from convmixer_keras.distribution import choose_strategy
from convmixer_keras.errors import InputError, first_line
from convmixer_keras.fused import fused_twin
from convmixer_keras.model import ConvMixer
from convmixer_keras.optimizer import build_optimizer
from convmixer_keras.recipes import from_saved
from convmixer_keras.saving import save_model, weights_size, written_whole


def build_model(recipe, channels, classes):
    """Builds a recipe's network. It takes raw pixels, (batch, image_size, image_size, channels), 0..255."""
    return ConvMixer(
        recipe.hidden_dim,
        recipe.depth,
        recipe.kernel_size,
        recipe.patch_size,
        activation=recipe.activation,
        normalization=recipe.normalization,
        residual=recipe.residual,
        input_mean=[255 * m for m in _each_channel(recipe.mean, channels)],
        input_std=[255 * s for s in _each_channel(recipe.std, channels)],
        input_shape=(recipe.image_size, recipe.image_size, channels),
        classes=classes,
    )


def _each_channel(values, channels):
    return values if len(values) == channels else values * channels


def compile_model(model, optimizer, classes, from_logits=True, steps_per_execution=1):
    """Compiles with cross-entropy over soft labels (batch, classes), top-1 and top-5 accuracy."""
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=from_logits),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.TopKCategoricalAccuracy(min(5, classes), name="top5"),
        ],
        steps_per_execution=steps_per_execution,
    )


def train(
    recipe,
    output,
    *,
    data_dir=None,
    strategy="auto",
    steps_per_execution=1,
    resume=False,
    overwrite=False,
    command=None,
    verbose="auto",
):
    """Trains a recipe and keeps the run in a folder.

    The folder gets `model.keras` (best validation accuracy) and `last.keras`, both plain Keras models that
    take raw pixels, with their class names; `config.json`, `history.csv`, `curves.png`, TensorBoard logs,
    and the checkpoint that a later call with `resume=True` goes on from.

    Args:
        recipe: A `Recipe`.
        output: The folder. It must not hold a run, or with `resume` an unfinished one of the same recipe.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        strategy: "auto", "one" or "mirrored": see `choose_strategy`.
        steps_per_execution: Training steps in one call of the compiled step.
        resume: Whether to go on after the last finished epoch of the run in `output`.
        overwrite: Whether to remove the run in `output` first, once it is clear that this one can start.
        command: What to note in `config.json` as the command of this run.
        verbose: As in `keras.Model.fit`.

    Returns:
        A list with a dictionary for each epoch: epoch (from 1), loss, accuracy, top5, the same of the
        validation images with "val_" before it, learning_rate, seconds.

    Raises:
        InputError: If the folder holds a run that is not to be resumed, or the recipe cannot be run.
        KeyboardInterrupt: On Ctrl-C; what the last finished epoch left is complete.
    """
    folder = run_folder.RunFolder(output)
    _check_folder(folder, recipe, resume, overwrite)
    keras.config.set_dtype_policy(recipe.dtype_policy)
    keras.utils.set_random_seed(recipe.seed)
    data = data_module.load(recipe, data_dir)
    classes = len(data.class_names)
    total_steps = recipe.epochs * len(data.train)

    strategy = choose_strategy(strategy)
    with strategy.scope():
        model = build_model(recipe, data.channels, classes)
        twin = fused_twin(model)
        compile_model(
            twin,
            build_optimizer(recipe, twin, total_steps),
            classes,
            steps_per_execution=steps_per_execution,
        )
        twin.optimizer.build(twin.trainable_variables)

    if resume:
        first_epoch = _restore(twin, folder)
    else:
        first_epoch = 0
        if overwrite:
            folder.remove_run()
        folder.create(_config(recipe, data, model, strategy, data_dir, command))
    history = folder.read_history()[:first_epoch]
    data.epoch.assign(first_epoch)

    callbacks = [keras.callbacks.TensorBoard(folder[run_folder.TENSORBOARD], write_graph=False)]
    average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True) if recipe.ema_momentum else None
    if average:
        callbacks.append(average)
    callbacks.append(KeepRun(folder, model, data.class_names, history, average))
    try:
        twin.fit(
            data.train,
            validation_data=data.validation,
            initial_epoch=first_epoch,
            epochs=recipe.epochs,
            callbacks=callbacks,
            shuffle=False,  # The pipeline shuffles.
            verbose=verbose,
        )
    finally:
        if history:
            with written_whole(folder[run_folder.CURVES]) as path:
                visualization.learning_curves(history).savefig(path)
    return history


class KeepRun(keras.callbacks.Callback):
    """Writes models, history and checkpoint after each epoch.

    The checkpoint comes last: a run that is killed in between does that epoch again.

    Args:
        folder: The `RunFolder`.
        model: The model to save, which shares its weights with the one that is trained.
        class_names: Saved with it.
        history: List of the finished epochs, to which this appends.
        average: The `SwapEMAWeights` callback before this one, or None.
    """

    def __init__(self, folder, model, class_names, history, average):
        super().__init__()
        self.folder = folder
        self.saved_model = model
        self.class_names = class_names
        self.history = history
        self.average = average

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        best_before = max((row["val_accuracy"] for row in self.history), default=-1.0)
        logs = {key: float(value) for key, value in logs.items()}
        logs.pop("learning_rate", None)
        self.history.append(
            {
                "epoch": epoch + 1,
                **logs,
                "learning_rate": float(self.model.optimizer.learning_rate),
                "seconds": round(time.monotonic() - self.began, 2),
            }
        )
        save_model(self.saved_model, self.folder[run_folder.LAST_MODEL], self.class_names)
        if logs["val_accuracy"] > best_before:
            save_model(self.saved_model, self.folder[run_folder.BEST_MODEL], self.class_names)
        self.folder.write_history(self.history)
        if self.average:  # The models hold the averaged weights; training goes on from the others.
            self.average.on_epoch_begin(epoch + 1)
        _write_checkpoint(self.model, self.folder[run_folder.CHECKPOINT], finished_epochs=epoch + 1)


def _check_folder(folder, recipe, resume, overwrite):
    if not resume:
        if folder.holds_run() and not overwrite:
            raise InputError(
                f"{folder.path} already holds a run: go on with it by --resume, replace it by --overwrite, "
                "or choose another --output"
            )
        return
    saved = dataclasses.asdict(from_saved(folder.read_config()["recipe"]))
    for name, value in dataclasses.asdict(recipe).items():
        if saved[name] != value:
            raise InputError(
                f"{name} must be {saved[name]!r}, as when the run in {folder.path} began, to resume it; "
                f"got {value!r}"
            )


def _write_checkpoint(twin, path, finished_epochs):
    with written_whole(path, room=weights_size(twin)) as temporary:
        twin.save_weights(temporary)
        # In the same file, so that the two cannot disagree. The optimizer's count of steps would not do:
        # with mixed_float16 it leaves out those whose gradients overflowed.
        with h5py.File(temporary, "a") as file:
            file.attrs["finished_epochs"] = finished_epochs


def _restore(twin, folder):
    """Loads the checkpoint and returns the number of finished epochs."""
    checkpoint = folder[run_folder.CHECKPOINT]
    if not os.path.exists(checkpoint):
        return 0  # Stopped within its first epoch.
    try:
        twin.load_weights(checkpoint)
        with h5py.File(checkpoint) as file:
            return int(file.attrs["finished_epochs"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{checkpoint} cannot be resumed from: {first_line(error)}") from None


def _config(recipe, data, model, strategy, data_dir, command):
    parameters, multiply_adds = model_complexity(model)
    packages = ("convmixer-keras", "keras", "tensorflow", "keras-cv", "tensorflow-datasets", "numpy")
    return {
        "recipe": dataclasses.asdict(recipe),
        "data_dir": data_dir,
        "command": command,
        "class_names": list(data.class_names),
        "train_images": data.train_size,
        "validation_images": data.validation_size,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "strategy": type(strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }
