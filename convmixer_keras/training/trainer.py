"""Compile and fit, and what a run leaves behind."""

import contextlib
import dataclasses
import os
import platform
from functools import partial

import keras
import tensorflow as tf

from convmixer_keras import visualization
from convmixer_keras.data import pipeline as data_module
from convmixer_keras.models.complexity import model_complexity
from convmixer_keras.models.convmixer import ConvMixer
from convmixer_keras.recipes import from_saved
from convmixer_keras.training import checkpoint, distribution, run_folder
from convmixer_keras.training.callbacks import KeepRun, StopAtNonFiniteLoss
from convmixer_keras.training.fused import fused_twin
from convmixer_keras.training.optimizer import build_optimizer
from convmixer_keras.training.peers import PeerLost, lost_peer
from convmixer_keras.utils.command_line import versions
from convmixer_keras.utils.errors import Failure, InputError, first_line
from convmixer_keras.utils.files import written_whole


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
    """Compiles with cross-entropy over soft labels (batch, classes), top-1 and top-5 accuracy.

    Returns:
        The variables that loss and accuracies are summed up in over an epoch, scalars.
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
    return [variable for metric in (loss, *accuracies) for variable in metric.variables]


def train(
    recipe,
    output,
    *,
    data_dir=None,
    strategy="auto",
    peer_timeout=600,
    steps_per_execution=1,
    checkpoint_every=0,
    max_bad_images=0,
    deterministic=False,
    resume=False,
    overwrite=False,
    command=None,
    verbose="auto",
):
    """Trains a recipe and keeps the run in a folder.

    The folder gets `model.keras` (best validation accuracy) and `last.keras`, both plain Keras models that
    take raw pixels, with their class names; `config.json`, `history.csv`, `curves.png`, TensorBoard logs,
    and the checkpoint that a later call with `resume=True` goes on from. Of several processes only the
    chief writes.

    Args:
        recipe: A `Recipe`.
        output: The folder. It must not hold a run, or with `resume` an unfinished one of the same recipe.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        strategy: "auto", "one", "mirrored", "multiworker" or "tpu": see `choose_strategy`.
        peer_timeout: Seconds to wait for another process.
        steps_per_execution: Training steps in one call of the compiled step.
        checkpoint_every: Write a checkpoint after so many steps, too; 0 for only after each epoch.
        max_bad_images: How many files of a folder that are no images to do without.
        deterministic: Whether to take TensorFlow's deterministic operations, so that on a GPU, too, two runs
            end with the same weights. Slower.
        resume: Whether to go on from the last checkpoint of the run in `output`.
        overwrite: Whether to remove the run in `output` first, once it is clear that this one can start.
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
        KeyboardInterrupt: On Ctrl-C; what the last checkpoint holds is complete.
    """
    if checkpoint_every < 0:
        raise InputError(f"checkpoint_every must be at least 0, got {checkpoint_every}")
    name, workers = distribution.choose_strategy(strategy)
    if steps_per_execution > 1 and name in ("mirrored", "multiworker"):  # Keras fails on the loop.
        raise InputError(f"steps_per_execution must be 1 with strategy {name}, got {steps_per_execution}")
    folder = run_folder.RunFolder(output) if workers.is_chief else None
    if folder:
        _check_folder(folder, recipe, resume, overwrite)
    strategy = distribution.start_strategy(name, workers, peer_timeout)
    summary = distribution.describe(name, workers, strategy.num_replicas_in_sync, recipe.batch_size)
    if verbose:
        print(summary, flush=True)
    keras.config.set_dtype_policy(recipe.dtype_policy)
    keras.utils.set_random_seed(recipe.seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        # keras-cv's layers take the global generator, which now has to have a seed.
        tf.random.set_global_generator(tf.random.Generator.from_seed(recipe.seed))

    with _named_errors(workers, output):
        distribution.check_same(strategy, workers, (recipe, steps_per_execution, checkpoint_every, resume))
        data = data_module.load(
            recipe, data_dir, worker=workers.index, workers=workers.count, max_bad_images=max_bad_images
        )
        total_steps = recipe.epochs * data.steps
        with strategy.scope():
            model = build_model(recipe, data.channels, len(data.class_names))
            twin = fused_twin(model)
            several = name != "one"
            if several:
                twin = distribution.DistributedModel(twin.inputs, twin.outputs)
            optimizer = build_optimizer(recipe, twin, total_steps, gradients_are_summed=several)
            sums = compile_model(
                twin, optimizer, len(data.class_names), steps_per_execution=steps_per_execution
            )
            twin.optimizer.build(twin.trainable_variables)

        progress = checkpoint.Progress()
        if resume:
            progress = _restore(twin, folder, len(sums), strategy, workers)
        elif folder:
            if overwrite:
                folder.remove_run()
            folder.create(_config(recipe, data, model, summary, data_dir, command))
        history = folder.read_history()[: progress.epochs] if folder else []

        average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True) if recipe.ema_momentum else None
        keep_run = KeepRun(
            folder,
            model,
            data,
            history,
            average=average,
            sums=sums,
            progress=progress,
            checkpoint_every=checkpoint_every,
        )
        callbacks = [average] if average else []
        callbacks += [StopAtNonFiniteLoss(keep_run, optimizer.schedule), keep_run]
        if folder:
            logs = folder[run_folder.TENSORBOARD]
            callbacks.insert(0, keras.callbacks.TensorBoard(logs, write_graph=False))
        train = distribution.distribute(strategy, data.train, data.steps, recipe.batch_size)
        validation = distribution.distribute(
            strategy, data.validation, data.validation_steps, recipe.batch_size
        )
        fit = partial(
            twin.fit,
            train,
            validation_data=validation,
            initial_epoch=progress.epochs,
            epochs=recipe.epochs,
            callbacks=callbacks,
            shuffle=False,  # The pipeline shuffles.
            verbose=verbose if folder else 0,
        )
        try:
            with data.bad_images.named():
                if progress.batches:  # Keras wants epochs of equal length: half a one is a fit of its own.
                    fit(steps_per_epoch=data.steps - progress.batches)
                    progress = _restore(twin, folder, len(sums), strategy, workers)
                    fit = partial(fit, initial_epoch=progress.epochs)
                fit()
        except BaseException:
            with contextlib.suppress(Failure):  # A full disk: what went wrong before is what to say.
                _draw_curves(folder, history)
            raise
        _draw_curves(folder, history)
    return history


def _draw_curves(folder, history):
    if folder and history:
        with written_whole(folder[run_folder.CURVES]) as path:
            visualization.learning_curves(history).savefig(path)


# What TensorFlow may raise when another process is gone.
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


@contextlib.contextmanager
def _named_errors(workers, output):
    """Within this block, TensorFlow's errors about another process or a full disk say so in one line."""
    try:
        yield
    except tf.errors.OpError as error:
        logs = os.path.join(output, run_folder.TENSORBOARD)
        if logs in str(error) or "events file" in str(error):  # TensorBoard's, on a full disk.
            raise Failure(f"cannot write {logs}: {first_line(error)}") from None
        if workers.count == 1 or not isinstance(error, _LOST):
            raise
        peer = lost_peer(workers.addresses, workers.name, str(error))
        raise PeerLost(
            f"lost {peer}; start every process again with --resume --output {output} to go on from the last "
            "checkpoint"
        ) from error


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


def _restore(twin, folder, sums, strategy, workers):
    """Loads the chief's checkpoint, in every process, and returns its `Progress` with so many `sums`."""
    progress = checkpoint.Progress()
    if folder:
        folder.remove_leftovers()
        progress = checkpoint.restore(twin, folder[run_folder.CHECKPOINT])
    progress = progress._replace(sums=progress.sums or (0.0,) * sums)
    if workers.count == 1:
        return progress
    numbers = tf.Variable([*progress[:3], *progress.sums], dtype=tf.float64)
    distribution.broadcast(strategy, [numbers, *twin.weights, *twin.optimizer.variables])
    epochs, batches, seconds, *sums = numbers.numpy().tolist()
    return checkpoint.Progress(int(epochs), int(batches), seconds, tuple(sums))


def _config(recipe, data, model, strategy, data_dir, command):
    parameters, multiply_adds = model_complexity(model)
    return {
        "recipe": dataclasses.asdict(recipe),
        "data_dir": data_dir,
        "command": command,
        "class_names": list(data.class_names),
        "train_images": data.train_size,
        "validation_images": data.validation_size,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "strategy": strategy,
        "versions": {
            "python": platform.python_version(),
            **versions("keras", "tensorflow", "keras-cv", "tensorflow-datasets", "numpy"),
        },
    }
