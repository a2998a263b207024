"""Compile and fit, and what a run leaves behind."""

import contextlib
import dataclasses
import os
import platform
from functools import partial
from typing import NamedTuple

import keras
import tensorflow as tf

from convmixer_keras.data import pipeline as data_module
from convmixer_keras.models.complexity import model_complexity
from convmixer_keras.training.processes import distribution, termination
from convmixer_keras.training.processes.process import configured
from convmixer_keras.training.processes.workers import Workers
from convmixer_keras.training.run import checkpoint, run_folder
from convmixer_keras.training.run.callbacks import KeepRun, NonFiniteLoss, StopEarly
from convmixer_keras.training.run.resume import check_folder, check_progress, exhausted, note_changes
from convmixer_keras.training.run.run_writer import RunWriter
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.training.step.averaging import SwapAverages
from convmixer_keras.training.step.fused import fused_twin
from convmixer_keras.training.step.guard import Guard
from convmixer_keras.training.step.network import build_model, start_from, thawed
from convmixer_keras.training.step.optimizer import build_optimizer
from convmixer_keras.training.step.training_model import TrainingModel
from convmixer_keras.utils.command_line import versions
from convmixer_keras.utils.errors import Failure, InputError, first_line

# Loss scaling begins at 2 ** 15 and halves at each overflow, so that after 16 it is not what overflows.
SKIPPED_STEPS = 20


def compile_model(model, optimizer, classes, from_logits=True, steps_per_execution=1):
    """Compiles with cross-entropy over soft labels (batch, classes), top-1 and top-5 accuracy.

    Returns:
        The metrics in which an epoch is summed up: loss, accuracy, top5.
    """
    accuracies = [
        keras.metrics.CategoricalAccuracy(name="accuracy"),
        keras.metrics.TopKCategoricalAccuracy(min(5, classes), name="top5"),
    ]
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=from_logits, reduction="mean_with_sample_weight"
        ),
        weighted_metrics=accuracies,
        steps_per_execution=steps_per_execution,
    )
    loss = next(metric for metric in model.metrics if metric.name == "loss")
    return [loss, *accuracies]


def train(
    recipe,
    output,
    settings=None,
    *,
    resume=False,
    overwrite=False,
    callbacks=(),
    command=None,
    verbose="auto",
):
    """Trains a recipe and keeps the run in a folder.

    The folder gets `model.keras` (best validation accuracy) and `last.keras`, both plain Keras models that
    take raw pixels, with class names and preprocessing; `config.json`, `history.csv`, `curves.png`, logs for
    TensorBoard, and the checkpoint that `resume=True` continues from. Of several processes the chief writes.

    Args:
        recipe: A `Recipe`.
        output: The folder. It must not hold a run, or with `resume` one of the same recipe, but for what
            `resume.CHANGEABLE` lists: then the learning rate follows the schedule of a run that had the new
            settings from its beginning.
        settings: A `Settings`; None for the defaults.
        resume: Whether to continue from the last checkpoint of the run in `output`.
        overwrite: Whether to remove the run in `output` first, once it is clear that this one can start.
        callbacks: Further `keras.callbacks.Callback`s. Each sees an epoch before it is written down.
        command: What to note in `config.json` as the command of this run.
        verbose: As in `keras.Model.fit`.

    Returns:
        A list with a dictionary for each epoch: epoch (from 1), loss, accuracy, top5, the same of the
        validation images with "val_" before it, learning_rate, seconds.

    Raises:
        InputError: If the folder holds a run that is not to be resumed, or the recipe cannot be run.
        NonFiniteLoss: If the loss is no longer a number. `last.keras` then holds the last weights for which
            it was.
        PeerLost: If another process of the run is gone.
        Terminated: On SIGTERM to any process of the run, in all of them, once the checkpoint is written.
        KeyboardInterrupt: On Ctrl-C; what the last checkpoint holds is complete.
    """
    settings = settings or Settings()
    name, workers = distribution.choose_strategy(settings.strategy)
    folder = run_folder.RunFolder(output) if workers.is_chief else None
    if folder:
        check_folder(folder, recipe, settings.data_dir, resume, overwrite)
    with (
        distribution.together(
            workers, settings.peer_timeout, output, (NonFiniteLoss, termination.Terminated)
        ) as others,
        _named_errors(output),
        contextlib.ExitStack() as configuration,
    ):
        place = _start(folder, workers, others, name, recipe, settings)
        # Not before: several processes are joined before anything else of TensorFlow runs.
        configuration.enter_context(configured(recipe, settings.deterministic))
        if verbose:
            print(place.summary, flush=True)
        distribution.check_same(place.strategy, place.workers, (recipe, settings, resume))
        data = data_module.load(
            recipe,
            settings.data_dir,
            worker=place.workers.index,
            workers=place.workers.count,
            full_batches=name != "one",
            max_bad_images=settings.max_bad_images,
        )
        # The checkpoint has the weights, but what is frozen stays so.
        begun = dataclasses.replace(settings, init_from=None) if resume else settings
        built = _build(recipe, data, begun, place)
        if resume:
            progress = _restore(built, place)
            check_progress(progress, recipe, data.steps)
            note_changes(place.folder, progress, recipe, settings, place.summary, command)
        else:
            progress = checkpoint.Progress()
            _start_folder(place, overwrite, _config(recipe, settings, data, built.model, place, command))
        history = place.folder.read_history(progress.epochs) if place.folder else []
        alone, preprocessing = place.workers.count == 1, recipe.preprocessing(data.channels)
        writer = RunWriter(place.folder, built.model, data.class_names, history, alone, preprocessing)
        try:
            _fit(built, data, writer, progress, place, recipe, settings, callbacks, verbose)
        except BaseException:
            with contextlib.suppress(Failure):  # On a full disk, report the error that came first.
                writer.draw_curves()
            raise
        writer.draw_curves()
    return writer.history


class _Place(NamedTuple):
    """Where a run takes place: its folder (None where nothing is written), processes and devices."""

    folder: run_folder.RunFolder | None
    workers: Workers
    strategy_name: str
    strategy: tf.distribute.Strategy
    summary: str


class _Built(NamedTuple):
    """The model to save, its twin in training on the same weights, and the metrics of an epoch."""

    model: keras.Model
    twin: TrainingModel
    metrics: list


def _start(folder, workers, others, name, recipe, settings):
    """Starts the strategy. Returns a `_Place`."""
    if settings.steps_per_execution > 1 and name == "mirrored":  # It cannot exchange anything in a loop.
        raise InputError(
            f"steps_per_execution must be 1 with strategy {name}, got {settings.steps_per_execution}"
        )
    strategy = distribution.start_strategy(name, workers, others)
    replicas = strategy.num_replicas_in_sync
    summary = distribution.summary(name, workers, replicas, recipe.batch_size, recipe.accumulate)
    return _Place(folder, workers, name, strategy, summary)


def _build(recipe, data, settings, place):
    """Builds and compiles the network in the strategy's scope. Returns a `_Built`."""
    with place.strategy.scope():
        model = build_model(recipe, data.channels, len(data.class_names))
        start_from(model, settings.init_from, settings.freeze)
        fused = fused_twin(model, over_replicas=recipe.batch_norm_statistics == "global")
        twin = TrainingModel(fused.inputs, fused.outputs)
        twin.passes = recipe.accumulate
        if settings.rematerialize:
            twin.rematerialize()
        optimizer = build_optimizer(recipe, twin, recipe.epochs * data.steps, gradients_are_summed=True)
        metrics = compile_model(
            twin, optimizer, len(data.class_names), steps_per_execution=settings.steps_per_execution
        )
        twin.optimizer.build(twin.trainable_variables)
        if place.workers.count > 1:
            twin.end = termination.SharedEnd()
        averages = [average for _, average in optimizer.averaged]
        watched = [variable.value for variable in (*twin.variables, *averages)]
        twin.guard = Guard(watched, limit=SKIPPED_STEPS if recipe.dtype_policy == "mixed_float16" else 1)
    return _Built(model, twin, metrics)


def _start_folder(place, overwrite, config):
    if place.folder:
        if overwrite:
            place.folder.remove_run()
        place.folder.create(config)


def _fit(built, data, writer, progress, place, recipe, settings, callbacks, verbose):
    """Trains from `progress` to the end of the recipe."""
    average = SwapAverages(swap_on_epoch=True) if recipe.ema_momentum else None
    keep_run = KeepRun(writer, data, progress, built.metrics, settings.checkpoint_every, average)
    callbacks = [*([average] if average else []), *callbacks, keep_run]
    callbacks.append(StopEarly(writer.history, settings.patience))
    share = partial(distribution.distribute, place.strategy, batch_size=recipe.batch_size)
    validation = share(data.validation, data.validation_steps)
    fit = partial(
        built.twin.fit,
        share(data.train, data.steps),
        validation_data=validation,
        epochs=recipe.epochs,
        callbacks=callbacks,
        shuffle=False,  # The pipeline shuffles.
        verbose=verbose if place.folder else 0,
    )
    with data.bad_images.checked(), termination.noted() as keep_run.asked_to_end:
        if progress.batches == data.steps:
            termination.finish_epoch(
                built.twin, built.metrics, callbacks, validation, progress, recipe.epochs
            )
            progress = _restore(built, place)
        if progress.batches:  # Keras wants epochs of equal length: the rest of one is a separate fit.
            fit(initial_epoch=progress.epochs, steps_per_epoch=data.steps - progress.batches)
            progress = _restore(built, place)
        if not exhausted(writer.history, settings.patience):
            fit(initial_epoch=progress.epochs)


@contextlib.contextmanager
def _named_errors(output):
    """Within this block, TensorFlow's error about a full disk says so in one line."""
    try:
        yield
    except tf.errors.OpError as error:
        logs = os.path.join(output, run_folder.TENSORBOARD)
        if logs in str(error) or "events file" in str(error):  # TensorBoard's, on a full disk.
            raise Failure(f"cannot write {logs}: {first_line(error)}") from None
        raise


def _restore(built, place):
    """Loads the chief's checkpoint, in every process, and returns its `Progress`."""
    progress = checkpoint.Progress()
    if place.folder:
        place.folder.remove_leftovers()
        progress = checkpoint.restore(built.twin, place.folder[run_folder.CHECKPOINT])
    if place.workers.count == 1:
        return progress
    sums = progress.sums or [0.0 for metric in built.metrics for _ in metric.variables]
    numbers = tf.Variable([*progress[:3], *sums], dtype=tf.float64)
    distribution.broadcast(place.strategy, [numbers, *built.twin.weights, *built.twin.optimizer.variables])
    epochs, batches, seconds, *sums = numbers.numpy().tolist()
    return checkpoint.Progress(int(epochs), int(batches), seconds, tuple(sums))


def _config(recipe, settings, data, model, place, command):
    with thawed(model):
        parameters, multiply_adds = model_complexity(model)
    return {
        "recipe": dataclasses.asdict(recipe),
        "settings": dataclasses.asdict(settings),
        "command": command,
        "class_names": list(data.class_names),
        "train_images": data.train_size,
        "validation_images": data.validation_size,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "strategy": place.summary,
        "versions": {
            "python": platform.python_version(),
            **versions("keras", "tensorflow", "keras-cv", "tensorflow-datasets", "numpy"),
        },
    }
