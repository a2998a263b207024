"""Trains a ConvMixer, or evaluates one.

  python train_keras.py                                        digits, in a minute, nothing to download
  python train_keras.py --recipe cifar10_fast                  CIFAR-10 through tensorflow-datasets
  python train_keras.py --recipe imagenet --data-dir /data     ImageNet, prepared by tensorflow-datasets
  python train_keras.py --dataset photos/                      a folder photos/CLASS/*.jpg
  python train_keras.py --dataset photos/ --init-from ConvMixer1024_20     the same from a trained network
  python train_keras.py --evaluate runs/digits/model.keras     loss, top-1 and top-5 of a saved model

A recipe sets everything; each flag below overrides one of its values. The defaults shown are those of the
recipe that is named: try --recipe imagenet --help.
"""

import dataclasses
import os
import shlex
import sys
import warnings

from convmixer_keras.commands import evaluate, flags, next_commands, preview
from convmixer_keras.commands.earlier_run import settings_of_run, training_images
from convmixer_keras.commands.fitting import with_batch_for_few, with_body
from convmixer_keras.images.scores import SCORES
from convmixer_keras.models import presets
from convmixer_keras.recipes import RECIPES, Recipe, for_dataset, for_variant, recipe_name_for
from convmixer_keras.training.processes.workers import find_workers
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils import command_line, extras, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.text import counted, one_line

# Settings whose flags the help shows first, beside --recipe, --output, --resume and --evaluate.
COMMON = (
    "dataset",
    "epochs",
    "batch_size",
    "image_size",
    "learning_rate",
    "hidden_dim",
    "depth",
    "init_from",
)
VARIANTS = {preset.name: preset for preset in presets.PRESETS}


def main(argv=None):
    arguments, recipe = parse(argv)
    command_line.need_tensorflow()
    streams.quiet_start()
    if arguments.evaluate is not None:
        return evaluate.evaluate(arguments, recipe)
    if arguments.preview is not None:
        if getattr(arguments, "init_from", None):
            recipe = with_body(recipe, arguments.init_from, arguments.overrides)
        if "batch_size" not in arguments.overrides:
            recipe = with_batch_for_few(recipe, Settings(**flags.given(arguments, Settings)).max_bad_images)
        return preview.preview(arguments, recipe)
    return train(arguments, recipe)


def train(arguments, recipe):
    from convmixer_keras.training import trainer as training
    from convmixer_keras.training.processes import peers
    from convmixer_keras.training.processes.distribution import choose_strategy
    from convmixer_keras.training.processes.termination import Terminated
    from convmixer_keras.training.run import run_folder

    extras.require("matplotlib", "tensorboard")  # Before a body is fetched.
    folder = run_folder.RunFolder(
        os.path.join("runs", arguments.recipe_name) if arguments.output is None else arguments.output
    )
    settings = Settings(**flags.given(arguments, Settings))
    _, workers = choose_strategy(settings.strategy)
    with peers.meeting(workers, settings.peer_timeout):
        # Only the chief has the run's folder, unless all see the same disk: the others need all flags again.
        if arguments.resume and arguments.recipe is None and (workers.is_chief or folder.holds_run()):
            folder.read_config()
            recipe, settings = settings_of_run(arguments, recipe, folder.path)
            _, workers = choose_strategy(settings.strategy)
        elif settings.init_from is not None:
            several = workers.count > 1
            recipe = with_body(recipe, settings.init_from, arguments.overrides, apart=several)
        of_run = arguments.resume and arguments.recipe is None
        if not of_run and "batch_size" not in arguments.overrides:
            recipe = with_batch_for_few(recipe, settings.max_bad_images)
    print(recipe_text(recipe, arguments.recipe_name if not arguments.resume else "of the run"), flush=True)
    warn_of_slow_precision(recipe)
    go_on = shlex.join([*command_line.started_as(), "--resume", "--output", folder.path])
    try:
        history = training.train(
            recipe,
            folder.path,
            settings,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            accept_changed_data=arguments.accept_changed_data,
            command=shlex.join([*command_line.started_as(), *sys.argv[1:]]),
        )
    except (KeyboardInterrupt, Terminated) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        what = ": ".join(["interrupted" if interrupted else "terminated", *map(str, error.args)])
        kept = getattr(error, "resumable", os.path.exists(folder[run_folder.CHECKPOINT]))
        then = f"continue with: {go_on}" if kept else "no step was kept: start again"
        print(f"{one_line(what)}; {then}", file=sys.stderr)
        return command_line.INTERRUPTED if interrupted else command_line.TERMINATED
    if workers.is_chief:
        report(folder, history)
        if recipe.test_split is not None:
            test(folder, recipe, settings)
        print(f"\nuse the model\n{next_commands.lines(commands_for(folder, recipe))}")
    return command_line.DONE


def warn_of_slow_precision(recipe):
    import tensorflow as tf

    if recipe.dtype_policy == "mixed_float16" and not tf.config.list_physical_devices("GPU"):
        warnings.warn(
            "mixed_float16 is many times slower than float32 on a CPU: add --dtype-policy float32",
            stacklevel=2,
        )


def test(folder, recipe, settings):
    """Evaluates the best model on the test split, once for the same images, and records it in the config."""
    from convmixer_keras.data.datasets import open_source, resolved
    from convmixer_keras.training.run import evaluation, run_folder

    recipe = dataclasses.replace(recipe, dataset=resolved(recipe.dataset))
    config, finished = folder.read_config(), len(folder.read_history())
    source = open_source(recipe, settings.data_dir)  # As the run divides it.
    split = source.read(recipe.test_split)
    now = {"after_epochs": finished, "split": recipe.test_split, "fingerprint": split.fingerprint}
    known = config.get("test", {})
    if any(known.get(name) != value for name, value in now.items()):
        scores = evaluation.evaluate_opened(
            evaluation.open_model(folder[run_folder.BEST_MODEL], recipe),
            dataclasses.replace(recipe, validation_split=recipe.test_split),
            verbose=1,
            source=source,
            max_bad_images=settings.max_bad_images,
        )
        known = {**now, "model": run_folder.BEST_MODEL}
        known |= {"loss": scores.loss, "top1": scores.top1, "top5": scores.top5, "images": scores.images}
        folder.write_config({**folder.read_config(), "test": known})
    print(
        f"\ntest accuracy {100 * known['top1']:.2f} % of {known['model']} on the {known['images']} images of "
        f"{recipe.test_split!r} (not used to choose the model)"
    )


def recipe_text(recipe, name):
    size = f"{recipe.image_size}x{recipe.image_size}"
    if unseen := recipe.image_size % recipe.patch_size:
        size += f" ({recipe.image_size - unseen} of {recipe.image_size} are seen in whole patches)"
    return (
        f"recipe {name}: ConvMixer-{recipe.hidden_dim}/{recipe.depth}, patch {recipe.patch_size}, "
        f"kernel {recipe.kernel_size}, on {one_line(recipe.dataset)} at {size}: "
        f"{counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}"
    )


def report(folder, history):
    from convmixer_keras.training.run import run_folder

    if not history:
        raise InputError(
            f"{folder.path} has no epoch in its {run_folder.HISTORY}: the file was emptied or removed"
        )
    best, last = folder.best(history), history[-1]
    rows = (
        (run_folder.BEST_MODEL, f"the best epoch, {best['epoch']} of {last['epoch']}"),
        (run_folder.LAST_MODEL, "the last epoch"),
        (run_folder.CONFIG, "every setting, versions, the command"),
        (run_folder.HISTORY, "one line for each epoch"),
        (run_folder.CURVES, "the same as a picture"),
        (run_folder.TENSORBOARD, "logs for TensorBoard"),
    )
    print(
        f"\nvalidation accuracy {100 * best['val_accuracy']:.2f} % (best epoch, chosen by this figure), "
        f"{100 * last['val_accuracy']:.2f} % (last epoch)\n\nwrote"
    )
    for name, what in rows:
        if os.path.exists(folder[name]):
            print(f"  {folder[name]:<32}  {what}")


def commands_for(folder, recipe):
    """Returns what to do with the model of a run, as lists of words."""
    from convmixer_keras.training.run import run_folder

    model, tflite = folder[run_folder.BEST_MODEL], "model.tflite"
    images = training_images(recipe) or recipe.dataset
    return (
        ["convmixer-predict", "PHOTO", "--model", model],
        [*command_line.started_as(), "--evaluate", model],
        ["convmixer-tflite", model, tflite, "--mode", "int8", "--calibrate", images],
        *next_commands.page(tflite),
    )


def parse(argv):
    """Returns the parsed arguments and the recipe with its overrides."""
    chooser = command_line.Parser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--recipe", choices=RECIPES)
    chooser.add_argument("--model", choices=VARIANTS)
    chooser.add_argument("--dataset")
    chooser.add_argument("--init-from")
    chosen = chooser.parse_known_args(argv)[0]
    variant = VARIANTS.get(chosen.model)
    name = chosen.recipe or recipe_name_for(chosen.dataset, variant, chosen.init_from)
    recipe = for_variant(name, variant) if variant else RECIPES[name]
    if chosen.dataset:
        recipe = for_dataset(recipe, chosen.dataset)

    installed = os.path.basename(sys.argv[0]) == "convmixer-train"
    text = __doc__.replace("python train_keras.py", "convmixer-train") if installed else __doc__
    parser = command_line.parser(text)
    parser.usage = "%(prog)s [--FLAG VALUE ...]"
    common = parser.add_argument_group("most used")
    common.add_argument(
        "--recipe", choices=RECIPES, help="the settings (default: those that fit the data set)"
    )
    common.add_argument(
        "--output", metavar="DIR", help="folder for what the run writes (default: runs/RECIPE)"
    )
    common.add_argument("--resume", action="store_true", help="go on where the run in --output stopped")
    common.add_argument(
        "--evaluate",
        metavar="FILE",
        help="instead of training, print loss, top-1 and top-5 of a .keras or .tflite file",
    )
    first = dict.fromkeys(COMMON, common)
    flags.add_flags(parser, recipe, first=first)
    run = parser.add_argument_group("the run")
    run.add_argument("--model", choices=VARIANTS, help="a published network in place of the recipe's")
    run.add_argument("--overwrite", action="store_true", help="remove the run in --output first")
    run.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="with --resume: go on although images were added, removed or replaced",
    )
    flags.add_flags(parser, Settings(), first=first)
    instead = parser.add_argument_group("instead of training")
    instead.add_argument(
        "--scores", choices=SCORES, help="with --evaluate: what the file's outputs are, where it does not say"
    )
    instead.add_argument(
        "--report",
        metavar="DIR",
        help="with --evaluate: write scores of each class, a confusion matrix, the worst mistakes",
    )
    instead.add_argument(
        "--preview",
        type=command_line.picture,
        metavar="FILE",
        help="write a picture of an augmented batch, .png",
    )
    arguments = parser.parse_args(argv)
    arguments.overrides = flags.given(arguments, Recipe)
    arguments.recipe_name = name
    ways = [name for name in ("resume", "overwrite", "evaluate", "preview") if getattr(arguments, name)]
    if len(ways) > 1:
        parser.error(f"--{ways[0]} is not allowed with --{ways[1]}")
    if arguments.evaluate is not None and "test_split" in arguments.overrides:
        parser.error("--test-split is not allowed with --evaluate: --validation-split names the split")
    if arguments.accept_changed_data and not arguments.resume:
        parser.error("--accept-changed-data needs --resume")
    if variant and (arguments.resume or chosen.init_from):
        parser.error("--model is not for --resume and --init-from, which have a network")
    for flag in ("report", "scores"):
        if getattr(arguments, flag) is not None and arguments.evaluate is None:
            parser.error(f"--{flag} needs --evaluate")
    return arguments, dataclasses.replace(recipe, **arguments.overrides)


def command():
    try:
        command_line.run(main)
    except SystemExit as ended:
        # At a good end, a process takes its leave of the chief's TensorFlow, which would miss it otherwise.
        if ended.code or _is_chief():
            command_line.leave(ended.code)


def _is_chief():
    try:
        return find_workers().is_chief
    except InputError:  # Of an environment that this command has not looked at.
        return True


if __name__ == "__main__":
    command()
