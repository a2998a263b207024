"""The settings of an earlier run, for what goes on with it: --resume, and --evaluate of its model."""

import dataclasses

from convmixer_keras.commands import flags
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils.text import one_line


def settings_of_run(arguments, recipe, folder):
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
