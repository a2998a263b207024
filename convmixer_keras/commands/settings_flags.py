"""A flag for each field of `Settings`; those that are not given set nothing."""

import argparse
import dataclasses

from convmixer_keras.utils import command_line


def add_settings_flags(group):
    def add(name, **options):
        group.add_argument(name, default=argparse.SUPPRESS, **options)

    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its files")
    add(
        "--strategy",
        choices=("auto", "one", "mirrored", "multiworker", "tpu"),
        help="which devices and machines; auto takes all there are (default: auto)",
    )
    add(
        "--peer-timeout",
        type=float,
        metavar="S",
        help="seconds to wait for the others to start (default: 600)",
    )
    add(
        "--checkpoint-every",
        type=command_line.not_negative,
        metavar="N",
        help="steps between checkpoints within an epoch; 0 for one after each epoch (default: 0)",
    )
    add(
        "--max-bad-images",
        type=command_line.not_negative,
        metavar="N",
        help="damaged files of a folder to leave out before the run fails (default: 0)",
    )
    add(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        help="the same weights in every run on a GPU, too; slower",
    )
    add(
        "--rematerialize",
        action=argparse.BooleanOptionalAction,
        help="compute activations twice rather than keep them",
    )
    add(
        "--init-from",
        metavar="FILE_OR_NAME",
        help="start from a trained body: a .keras or .weights.h5 file, hf://USER/REPO, or a builder's name",
    )
    add(
        "--freeze",
        type=command_line.not_negative,
        metavar="N",
        help="leave the patch embedding and N blocks as they are (default: 0)",
    )
    add("--steps-per-execution", type=command_line.positive, metavar="N", help="steps per compiled call")
    add(
        "--patience",
        type=command_line.not_negative,
        metavar="N",
        help="stop after so many epochs without a better validation accuracy; 0 for never (default: 0)",
    )


def given_settings(arguments, settings_type):
    """Returns the fields that were given as flags, as a dictionary for `dataclasses.replace`."""
    names = {field.name for field in dataclasses.fields(settings_type)}
    return {name: value for name, value in vars(arguments).items() if name in names}
