"""What `train_keras.py` does instead of training: evaluate a model, show an augmented batch."""

import dataclasses
import os

from convmixer_keras.commands import flags
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils import command_line, extras
from convmixer_keras.utils.files import written_whole
from convmixer_keras.utils.text import one_line

PREVIEWED_BATCHES = 8


def evaluate(arguments, recipe):
    from convmixer_keras.training.run import evaluation
    from convmixer_keras.utils import progress

    if arguments.report is not None:
        extras.require("matplotlib")
    recipe, settings = of_run(arguments, recipe, os.path.dirname(arguments.evaluate) or ".")
    options = {
        "preprocessing": _preprocessing(arguments),
        "max_bad_images": settings.max_bad_images,
        "confusion": arguments.report is not None,
    }
    if arguments.evaluate.endswith(".tflite"):
        from convmixer_keras.convert.export import tflite_evaluation

        def counted(examples, size):
            return progress.shown(examples, "evaluating", size, "images")

        scores = tflite_evaluation.evaluate(
            arguments.evaluate, recipe, settings.data_dir, counted=counted, **options
        )
    else:
        verbose = progress.keras_verbosity()
        scores = evaluation.evaluate(arguments.evaluate, recipe, settings.data_dir, verbose, **options)
    print_scores(arguments.evaluate, recipe, scores)
    if arguments.report is not None:
        from convmixer_keras.commands.report import write_report

        write_report(arguments.report, scores)
    return command_line.DONE


def _preprocessing(arguments):
    """Returns the record in the model file with the flags in place of what it says, or None."""
    from convmixer_keras.images import preprocessing

    changes = {
        name: arguments.overrides[name]
        for name in ("crop_pct", "interpolation", "orientation")
        if name in arguments.overrides
    }
    if side := arguments.overrides.get("image_size"):
        changes["size"] = (side, side)
    record = preprocessing.of(arguments.evaluate) if changes else None
    return None if record is None else dataclasses.replace(record, **changes)


def print_scores(path, recipe, scores):
    print(
        f"{one_line(path)} on {one_line(recipe.dataset)}, {scores.images} images of "
        f"{scores.split!r}: loss {scores.loss:.4f}, "
        f"top-1 {100 * scores.top1:.2f} %, top-5 {100 * scores.top5:.2f} %"
    )


def of_run(arguments, recipe, folder):
    """Returns recipe and settings: those of the run in a folder, where it holds one and no recipe is named.

    Flags override what the run had, and a line says so.
    """
    from convmixer_keras.training.run.run_folder import RunFolder

    run, settings = RunFolder(folder), Settings()
    given = flags.given(arguments, Settings)
    if arguments.recipe is None and run.holds_run():
        recipe, settings = run.recipe(), run.settings()
        overrides = {**arguments.overrides, **given}
        for name, value in overrides.items():
            if (before := getattr(recipe, name, getattr(settings, name, None))) != value:
                print(f"{name} is {value!r}; the run in {one_line(run.path)} had {before!r}")
        recipe = dataclasses.replace(recipe, **arguments.overrides)
    return recipe, dataclasses.replace(settings, **given)


def preview(arguments, recipe):
    extras.require("matplotlib")
    from convmixer_keras.data import pipeline as data
    from convmixer_keras.utils import figures

    settings = Settings(**flags.given(arguments, Settings))
    batch = data.load(recipe, settings.data_dir, max_bad_images=settings.max_bad_images)
    with batch.bad_images.checked():
        images, labels, *_ = most_mixed(batch.train.take(PREVIEWED_BATCHES))
    images, labels = images.numpy()[:32], labels.numpy()[:32]

    def title(label):
        # The two strongest classes: after mixing, an image has two.
        first, second = (-label).argsort()[:2]
        names = [f"{batch.class_names[i][:14]} {label[i]:.2f}" for i in (first, second) if label[i] > 0.02]
        return "\n".join(names)

    with written_whole(arguments.preview) as path:
        figures.image_grid(images, [title(label) for label in labels]).savefig(path)
    print(f"wrote {arguments.preview}: {len(images)} augmented images, each under its labels")
    return command_line.DONE


def most_mixed(batches):
    """The batch in which MixUp or CutMix shows best: most of them mix so little that it cannot be seen."""
    return min(batches, key=lambda batch: batch[1].numpy().max(-1).mean())
