"""`convmixer-train --evaluate`: how good a trained model is."""

import dataclasses
import os
import sys

from convmixer_keras.commands import flags
from convmixer_keras.commands.earlier_run import settings_of_run
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.images.scores import shows_top5
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils import command_line, extras, streams
from convmixer_keras.utils.files import make_folder
from convmixer_keras.utils.text import one_line


def evaluate(arguments, recipe):
    from convmixer_keras.data.datasets import open_source
    from convmixer_keras.data.pipeline import validation_split
    from convmixer_keras.training.run import evaluation
    from convmixer_keras.training.run.run_folder import RunFolder

    if arguments.report is not None:
        extras.require("matplotlib")
        make_folder(arguments.report)
    given, settings = recipe, Settings(**flags.given(arguments, Settings))
    folder = os.path.dirname(arguments.evaluate) or "."
    if os.path.isfile(arguments.evaluate):
        recipe, settings = settings_of_run(arguments, recipe, folder)
    run = None if recipe is given else RunFolder(folder)
    # Only one that is named, or the run's, says how photographs become the input of a file without a record.
    stated = recipe if arguments.recipe or run else None
    changes = flags.given(arguments, Preprocessing)
    if side := arguments.overrides.get("image_size"):
        changes["size"] = (side, side)
    with streams.silence_litert(arguments.evaluate):
        opened = evaluation.open_model(arguments.evaluate, stated, arguments.scores, changes)
    source = open_source(_as_divided(recipe, run.recipe()) if run else recipe, settings.data_dir)
    if run and not {"dataset", "validation_split"} & arguments.overrides.keys():
        _note_other_images(source.read(validation_split(source, recipe)), run)
    scores = evaluation.evaluate_opened(
        opened,
        recipe,
        verbose=1,
        source=source,
        max_bad_images=settings.max_bad_images,
        check_images=settings.check_images,
    )
    top5 = f", top-5 {100 * scores.top5:.2f} %" if shows_top5(len(scores.class_names)) else ""
    print(
        f"{one_line(arguments.evaluate)} on {one_line(recipe.dataset)}, {scores.images} images of "
        f"{scores.split!r}: loss {scores.loss:.4f}, top-1 {100 * scores.top1:.2f} %{top5}"
    )
    if arguments.report is not None:
        from convmixer_keras.commands.report import write_report

        write_report(arguments.report, scores, opened)
    return command_line.DONE


def _note_other_images(split, run):
    if split.fingerprint not in run.read_config().get("fingerprints", [split.fingerprint]):
        print(
            "note: other images than the run validated on: it may have been trained on some of them",
            file=sys.stderr,
        )


def _as_divided(recipe, run):
    """Returns the recipe that opens a data set for another split than the one that a run validated on.

    What a run held out of its training split is not part of that split any more, whatever is evaluated.
    """
    if recipe.dataset != run.dataset or recipe.validation_split == run.validation_split:
        return recipe
    splits = {"validation_split": run.validation_split, "test_split": recipe.validation_split}
    return dataclasses.replace(recipe, **splits)
