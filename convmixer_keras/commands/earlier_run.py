"""The settings of an earlier run, for what goes on with it: --resume, --evaluate and exports of its model."""

import dataclasses
import os

from convmixer_keras.commands import flags
from convmixer_keras.convert.export.calibration import HELD_OUT_SHARE
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils.text import one_line


def settings_of_run(arguments, recipe, folder):
    """Returns recipe and settings: those of the run in a folder, where it holds one and no recipe is named.

    Flags override what the run had, and a line says so.
    """
    from convmixer_keras.data.datasets import resolved
    from convmixer_keras.training.run.run_folder import RunFolder

    run, settings = RunFolder(folder), Settings()
    given = flags.given(arguments, Settings)
    if arguments.recipe is None and run.holds_run():
        recipe, settings = run.recipe(), run.settings()
        overrides = {**arguments.overrides, **given}
        for name in overrides.keys() & {"dataset", "data_dir"}:  # As the run has noted them.
            overrides[name] = resolved(overrides[name])
        for name, value in overrides.items():
            if (before := getattr(recipe, name, getattr(settings, name, None))) != value:
                print(f"{name} is {value!r}; the run in {one_line(run.path)} had {before!r}")
        recipe = dataclasses.replace(recipe, **arguments.overrides)
    return recipe, dataclasses.replace(settings, **given)


def training_images(recipe):
    """Returns a source of images to calibrate an int8 file with, all of which a run trains on, or None.

    Of a folder that is divided, the export leaves out more than a run holds out by default.
    """
    if recipe.dataset == "digits":
        return recipe.dataset
    named = [name for name in (recipe.train_split, recipe.validation_split, recipe.test_split) if name]
    holds_out_more = recipe.validation_share > HELD_OUT_SHARE
    if not os.path.isdir(recipe.dataset) or holds_out_more or "[" in "".join(named):
        return None
    split = recipe.train_split or ("train" if named else "")
    folder = os.path.join(recipe.dataset, split)
    return folder if os.path.isdir(folder) else None
