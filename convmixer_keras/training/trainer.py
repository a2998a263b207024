"""Compile and fit, and what a run leaves behind."""

import contextlib
import dataclasses
import os
import platform
from collections.abc import Sequence
from functools import partial

import keras
import tensorflow as tf

from convmixer_keras.data import pipeline as data_module
from convmixer_keras.data.datasets import resolved
from convmixer_keras.models.complexity import model_complexity
from convmixer_keras.recipes import Recipe
from convmixer_keras.training.processes import distribution, peers, termination
from convmixer_keras.training.run import checkpoint, run_folder
from convmixer_keras.training.run.callbacks import KeepRun, NonFiniteLoss
from convmixer_keras.training.run.display import Display
from convmixer_keras.training.run.global_state import configured
from convmixer_keras.training.run.resume import (
    check_data,
    check_folder,
    check_progress,
    exhausted,
    facts,
    finish_epoch,
    note_changes,
    note_place,
)
from convmixer_keras.training.run.run_writer import RunWriter
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.training.step.averaging import SwapAverages
from convmixer_keras.training.step.head import train_head
from convmixer_keras.training.step.network import build_model, start_from, thawed
from convmixer_keras.training.step.training_model import training_twin
from convmixer_keras.utils import checks, extras
from convmixer_keras.utils.command_line import versions
from convmixer_keras.utils.errors import Failure, InputError, arg, first_line
from convmixer_keras.utils.files import Path
from convmixer_keras.utils.progress import keras_verbosity
from convmixer_keras.utils.text import counted, is_utf8


def train(
    recipe: Recipe,
    output: Path,
    settings: Settings | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changed_data: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    command: str | None = None,
    verbose: int | str = "auto",
) -> list[dict]:
    """Trains a recipe and keeps the run in a folder.

    The folder gets `model.keras` (best validation accuracy) and `last.keras`, both plain Keras models that
    take raw pixels, with class names and preprocessing; `config.json`, `history.csv`, `curves.png`, logs for
    TensorBoard, and the checkpoint that `resume=True` continues from. Of several processes the chief writes.

    Args:
        recipe: A `Recipe`.
        output: The folder. It must not hold a run, or with `resume` one of the same recipe, `init_from` and
            `freeze`, but for what `resume.CHANGEABLE` lists: then the learning rate follows the schedule of a
            run that had the new settings from its beginning.
        settings: A `Settings`; None for the defaults.
        resume: Whether to continue from the last checkpoint of the run in `output`.
        overwrite: Whether to remove the run in `output` first, once it is clear that this one can start.
        callbacks: Further `keras.callbacks.Callback`s. Each sees an epoch before it is written down, and may
            stop the run there, in `on_epoch_end`.
        command: What to note in `config.json` as the command of this run.
        accept_changed_data: Whether a resumed run may go on with other images of the same classes.
        verbose: 0 shows nothing, 1 a bar for each epoch, 2 plain lines; "auto" is 1 on a terminal, else 2.

    Returns:
        A list with a dictionary for each epoch: epoch (from 1), loss, accuracy, of more than five classes
        top5, the same of the validation images with "val_" before it, learning_rate, seconds. In other
        processes than the chief, epochs before a resume have epoch and val_accuracy alone.

    Raises:
        InputError: If the folder holds a run that is not to be resumed, or the recipe cannot be run.
        NonFiniteLoss: If the loss is no longer a number, in every process; nothing is written any more.
        PeerLost: If another process of the run is gone.
        Terminated: On SIGTERM to any process of the run, in all of them, once the checkpoint is written.
        KeyboardInterrupt: On Ctrl-C, once the checkpoint is written; the other processes raise `Terminated`.
    """
    checks.tensorflow_backend("training.train")
    extras.require("matplotlib", "tensorboard")  # At once, not after the first epoch.
    settings = settings or Settings()
    recipe = dataclasses.replace(recipe, dataset=resolved(recipe.dataset))
    settings = dataclasses.replace(settings, data_dir=settings.data_dir and resolved(settings.data_dir))
    places = {"dataset": recipe.dataset, "output": output, "init_from": settings.init_from}
    for name, place in places.items():
        if place is not None and not is_utf8(os.fspath(place)):
            raise InputError(f"{arg(name)} must be a name in UTF-8, got {os.fspath(place)!r}")
    name, workers = distribution.choose_strategy(settings.strategy)
    if settings.steps_per_execution > 1 and name == "mirrored":  # It cannot exchange anything in a loop.
        raise InputError(
            f"{arg('steps_per_execution')} must be 1 with {arg('strategy')} {name}, "
            f"got {settings.steps_per_execution}"
        )
    if recipe.head_epochs and not resume and settings.init_from is None:
        raise InputError(
            f"{arg('head_epochs')} must be 0 without {arg('init_from')}, got {recipe.head_epochs}"
        )
    folder = run_folder.RunFolder(output) if workers.is_chief else None
    with peers.meeting(workers, settings.peer_timeout):
        if folder:
            check_folder(folder, recipe, settings, resume, overwrite)
            if not resume:
                note_place(folder, recipe)
            if os.path.isdir(folder.path):
                folder.lock()
    with contextlib.ExitStack() as run:
        if folder:
            run.callback(folder.unlock)
        run.enter_context(termination.inputs_let_go())
        run.enter_context(_named_errors(output))
        shared_errors = (NonFiniteLoss, termination.Terminated)
        run.enter_context(peers.losses_named(workers, output, shared_errors))
        strategy = distribution.start_strategy(name, workers, settings.peer_timeout)
        # Not before: several processes are joined before anything else of TensorFlow runs.
        run.enter_context(configured(recipe, settings.deterministic))
        replicas = strategy.num_replicas_in_sync
        devices = distribution.summary(name, workers, replicas, recipe.batch_size, recipe.accumulate)
        if verbose:
            print(devices, flush=True)
        distribution.check_same(strategy, workers, recipe, settings, resume and (True, accept_changed_data))
        data = data_module.load(
            recipe,
            settings.data_dir,
            worker=workers.index,
            workers=workers.count,
            full_batches=name != "one",
            max_bad_images=settings.max_bad_images,
            check_images=settings.check_images,
        )
        if verbose and folder:
            print(data.summary, flush=True)
        distribution.check_same_data(strategy, workers, facts(data))
        if resume and folder:
            check_data(folder, data, accept_changed_data)
        with strategy.scope():
            model = build_model(recipe, data.channels, len(data.class_names))
            # A checkpoint has the weights, but what is frozen stays so.
            body = None if resume else settings.init_from
            with_head = start_from(model, body, data.class_names, settings.freeze)
            twin, metrics = training_twin(model, recipe, settings, data.steps, several=workers.count > 1)
        run.callback(twin.let_go)
        restore = partial(_restore, folder, twin, metrics, strategy, workers)
        progress = checkpoint.Progress()
        if resume:
            progress = restore()
            if accept_changed_data:  # The epoch ends where the images do.
                progress = progress._replace(batches=min(progress.batches, data.steps))
            check_progress(progress, recipe, data.steps)
            _count_steps(twin.optimizer, progress, data.steps, accept_changed_data)
            note_changes(folder, progress, recipe, settings, data, devices, command)
        elif folder:
            folder.lock()
            check_folder(folder, recipe, settings, resume, overwrite)  # Another may have begun here.
            config = _config(recipe, settings, data, model, devices, command)
            folder.remove_run()
            folder.write_config(config)
        asked = termination.Asked()
        if recipe.head_epochs and not resume:
            with termination.noted() as asked:
                _train_head(model, recipe, data, strategy, workers, with_head, verbose, asked)
        history = folder.read_history(progress.epochs) if folder else []
        if workers.count > 1:
            history = _shared(history, progress.epochs, strategy)
        preprocessing = recipe.preprocessing(data.channels)
        writer = RunWriter(folder, model, data.class_names, history, workers.count == 1, preprocessing)
        run.enter_context(_curves_drawn(writer))

        average = SwapAverages(swap_on_epoch=True) if recipe.ema_momentum else None
        every = settings.checkpoint_every
        keep_run = KeepRun(writer, data, progress, metrics, every, average, recipe.patience)
        callbacks = [*([average] if average else []), *callbacks, keep_run]
        if verbose and folder:
            verbose = keras_verbosity() if verbose == "auto" else verbose
            callbacks.append(display := Display(keep_run, recipe, verbose, settings.log_every))
            run.callback(display.close)
        share = partial(distribution.distribute, strategy, batch_size=recipe.batch_size)
        validation = share(data.validation, data.validation_steps)
        fit = partial(
            twin.fit,
            share(data.train, data.steps),
            validation_data=validation,
            epochs=recipe.epochs,
            callbacks=callbacks,
            shuffle=False,  # The pipeline shuffles.
            verbose=0,  # `Display` shows more.
        )
        with data.errors_named(), termination.noted() as keep_run.asked:
            keep_run.asked.signal = keep_run.asked.signal or asked.signal  # While the head learnt.
            if progress.batches == data.steps:
                finish_epoch(twin, metrics, callbacks, validation, progress, recipe.epochs)
                progress = restore()
            if progress.batches:  # Keras wants epochs of equal length: the rest of one is a separate fit.
                fit(initial_epoch=progress.epochs, steps_per_epoch=data.steps - progress.batches)
                progress = restore()
            if not (keep_run.stopped or exhausted(writer.history, recipe.patience)):
                fit(initial_epoch=progress.epochs)
        ended_early = len(writer.history) < recipe.epochs and exhausted(writer.history, recipe.patience)
        if verbose and folder and ended_early:
            last = counted(recipe.patience, "epoch")
            print(f"ended: no better validation accuracy in {last} ({arg('patience')})", flush=True)
    return writer.history


def _count_steps(optimizer, progress, steps, accept_changed_data):
    """Tells the schedule where a run is, an epoch of which may have another number of steps than before."""
    # Where a loss is scaled, steps whose gradients overflowed were not counted.
    if accept_changed_data or not hasattr(optimizer, "inner_optimizer"):
        optimizer.iterations.assign(progress.epochs * steps + progress.batches)


def _shared(history, epochs, strategy):
    """Returns the chief's history in every process, as far as patience looks at it."""
    known = {row["epoch"]: row["val_accuracy"] for row in history}
    accuracies = tf.Variable([known.get(i + 1, -1.0) for i in range(epochs)], dtype=tf.float64)
    if epochs:
        distribution.broadcast(strategy, [accuracies])
    rows = enumerate(accuracies.numpy().tolist(), 1)
    return history or [{"epoch": i, "val_accuracy": accuracy} for i, accuracy in rows if accuracy >= 0]


def _train_head(model, recipe, data, strategy, workers, with_head, verbose, asked):
    """Trains a new head alone, in the chief, and gives it to every process."""
    ended = None
    if with_head:
        text = "head: the body's, which knows these classes"
    elif workers.is_chief:
        try:
            with data.errors_named():
                images, accuracy = train_head(model, recipe, data, verbose, asked)
        except (termination.Terminated, KeyboardInterrupt) as error:
            ended = error
        else:
            passes = counted(recipe.head_epochs, "epoch")
            text = f"head: {passes} on the features of {images:,} images, validation accuracy {accuracy:.2%}"
    if workers.count > 1:
        has_ended = tf.Variable(float(ended is not None))
        distribution.broadcast(strategy, [has_ended, *model.get_layer("head").weights])
        ended = ended or (termination.ended_early() if has_ended.numpy() else None)
    if ended:
        raise ended
    if verbose and workers.is_chief:
        print(text.replace("%", " %"), flush=True)


@contextlib.contextmanager
def _curves_drawn(writer):
    try:
        yield
    except BaseException:
        with contextlib.suppress(Failure):  # On a full disk, report the error that came first.
            writer.draw_curves()
        raise
    writer.draw_curves()


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


def _restore(folder, twin, metrics, strategy, workers):
    """Loads the chief's checkpoint, in every process, and returns its `Progress`."""
    progress = checkpoint.Progress()
    if folder:
        progress = checkpoint.restore(twin, folder[run_folder.CHECKPOINT])
        folder.settle(progress.epochs)
    if workers.count == 1:
        return progress
    sums = progress.sums or [0.0 for metric in metrics for _ in metric.variables]
    numbers = tf.Variable([*progress[:3], *sums], dtype=tf.float64)
    distribution.broadcast(strategy, [numbers, *twin.weights, *twin.optimizer.variables])
    epochs, batches, seconds, *sums = numbers.numpy().tolist()
    return checkpoint.Progress(int(epochs), int(batches), seconds, tuple(sums))


def _config(recipe, settings, data, model, devices, command):
    with thawed(model):
        parameters, multiply_adds = model_complexity(model)
    return {
        "recipe": dataclasses.asdict(recipe),
        "settings": dataclasses.asdict(settings),
        "command": command,
        **facts(data),
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "strategy": devices,
        "versions": {
            "python": platform.python_version(),
            **versions("keras", "tensorflow", "keras-cv", "tensorflow-datasets", "numpy"),
        },
    }
