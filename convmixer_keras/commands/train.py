"""Trains a ConvMixer, or evaluates one.

  python train_keras.py                                        digits, in a minute, nothing to download
  python train_keras.py --recipe cifar10_fast                  CIFAR-10 through tensorflow-datasets
  python train_keras.py --recipe imagenet --data-dir /data     ImageNet, prepared by tensorflow-datasets
  python train_keras.py --dataset photos/                      a folder photos/CLASS/*.jpg
  python train_keras.py --evaluate runs/digits/model.keras     loss, top-1 and top-5 of a saved model

A recipe sets everything; each flag below overrides one of its values. The defaults shown are those of the
recipe that is named: try --recipe imagenet --help.
"""

import argparse
import dataclasses
import os
import shlex
import sys

from convmixer_keras.commands import recipe_flags
from convmixer_keras.recipes import RECIPES, from_saved, recipe_name_for
from convmixer_keras.utils import command_line, extras, hub

DEFAULT_RECIPE = "digits"
PREVIEWED_BATCHES = 8


def main(argv=None):
    arguments, recipe = parse(argv)
    command_line.need_tensorflow()
    command_line.quiet_start()
    if arguments.evaluate:
        return evaluate(arguments, recipe)
    if arguments.preview:
        return preview(arguments, recipe)
    return train(arguments, recipe)


def train(arguments, recipe):
    from convmixer_keras.training import run_folder
    from convmixer_keras.training import trainer as training
    from convmixer_keras.training.distribution import choose_strategy
    from convmixer_keras.training.peers import PeerLost
    from convmixer_keras.training.termination import Terminated

    extras.require("matplotlib", "tensorboard")  # At once, not after the first epoch.
    folder = run_folder.RunFolder(
        os.path.join("runs", arguments.recipe_name) if arguments.output is None else arguments.output
    )
    _, workers = choose_strategy(arguments.strategy)
    # Only the chief has the run's folder, unless all see the same disk: the others need the same flags again.
    if arguments.resume and (workers.is_chief or folder.holds_run()):
        recipe = dataclasses.replace(saved_recipe(folder), **arguments.overrides)
        # The checkpoint has the weights; what is frozen stays so.
        arguments.init_from = None
        arguments.freeze = folder.read_config().get("settings", {}).get("freeze", arguments.freeze)
    elif arguments.init_from:
        recipe, arguments.init_from = body_to_start_from(arguments, recipe)
    print(recipe_text(recipe), flush=True)
    try:
        history = training.train(
            recipe,
            folder.path,
            training.Settings(
                data_dir=arguments.data_dir,
                strategy=arguments.strategy,
                peer_timeout=arguments.peer_timeout,
                checkpoint_every=arguments.checkpoint_every,
                max_bad_images=arguments.max_bad_images,
                rematerialize=arguments.rematerialize,
                deterministic=arguments.deterministic,
                steps_per_execution=arguments.steps_per_execution,
                init_from=arguments.init_from,
                freeze=arguments.freeze,
            ),
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            command=shlex.join([*command_line.started_as(), *sys.argv[1:]]),
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except KeyboardInterrupt:
        if not workers.is_chief:
            raise
        finished = len(folder.read_history())
        print(
            f"\ninterrupted; {finished} of {recipe.epochs} epochs are finished and saved in {folder.path}\n"
            f"go on: {shlex.join(command_line.started_as())} --resume --output {shlex.quote(folder.path)}",
            file=sys.stderr,
        )
        return command_line.INTERRUPTED
    except Terminated as error:
        again = f"{shlex.join(command_line.started_as())} --resume --output {shlex.quote(folder.path)}"
        print(f"terminated: {error}; continue with {again}", file=sys.stderr)
        return command_line.TERMINATED
    except PeerLost as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(command_line.FAILED)  # TensorFlow's shutdown may wait for the process that is gone.
    if workers.is_chief:
        report(folder, history)
    return command_line.DONE


def body_to_start_from(arguments, recipe):
    """Returns the recipe with the network of --init-from, and the path of its weights."""
    from convmixer_keras import presets, pretrained
    from convmixer_keras.training.network import recipe_for

    path = arguments.init_from
    preset = next((preset for preset in presets.PRESETS if preset.name == path), None)
    if preset is not None:
        path = pretrained.imagenet_weights_file(preset)
    elif hub.is_name(path):
        path = hub.download(path, ("model.keras", ".keras", ".weights.h5"))
    return dataclasses.replace(recipe_for(path, recipe, preset), **arguments.overrides), path


def recipe_text(recipe):
    return (
        f"ConvMixer-{recipe.hidden_dim}/{recipe.depth}, patch {recipe.patch_size}, "
        f"kernel {recipe.kernel_size}, on {recipe.dataset} at {recipe.image_size}x{recipe.image_size}: "
        f"{recipe.epochs} epochs, batch {recipe.batch_size}"
    )


def report(folder, history):
    from convmixer_keras.training import run_folder

    best = max(history, key=lambda row: row["val_accuracy"])
    last = history[-1]
    model = folder[run_folder.BEST_MODEL]
    rows = (
        (run_folder.BEST_MODEL, f"the best epoch, {best['epoch']} of {last['epoch']}"),
        (run_folder.LAST_MODEL, "the last epoch"),
        (run_folder.CONFIG, "every setting, versions, the command"),
        (run_folder.HISTORY, "one line for each epoch"),
        (run_folder.CURVES, "the same as a picture"),
        (run_folder.TENSORBOARD, "logs for TensorBoard"),
    )
    print(
        f"\ntest accuracy {100 * best['val_accuracy']:.2f} % (best epoch), "
        f"{100 * last['val_accuracy']:.2f} % (last epoch)\n\nwrote"
    )
    for name, what in rows:
        print(f"  {folder[name]:<32}  {what}")
    print(
        "\nuse the model\n"
        f"  {shlex.join(command_line.started_as())} --evaluate {shlex.quote(model)}\n"
        f"  python -c \"import keras; keras.saving.load_model('{model}').summary()\""
    )


def preview(arguments, recipe):
    from convmixer_keras import visualization
    from convmixer_keras.data import pipeline as data
    from convmixer_keras.utils.files import written_whole

    batch = data.load(recipe, arguments.data_dir)
    with batch.bad_images.checked():
        images, labels = most_mixed(batch.train.take(PREVIEWED_BATCHES))
    images, labels = images.numpy()[:32], labels.numpy()[:32]

    def title(label):
        # The two strongest classes: after mixing, an image has two.
        first, second = (-label).argsort()[:2]
        names = [f"{batch.class_names[i][:14]} {label[i]:.2f}" for i in (first, second) if label[i] > 0.02]
        return "\n".join(names)

    with written_whole(arguments.preview) as path:
        visualization.image_grid(images, [title(label) for label in labels]).savefig(path)
    print(f"wrote {arguments.preview}: {len(images)} augmented images, each under its labels")
    return command_line.DONE


def most_mixed(batches):
    """The batch in which MixUp or CutMix shows best: most of them mix so little that it cannot be seen."""
    return min(batches, key=lambda batch: batch[1].numpy().max(-1).mean())


def evaluate(arguments, recipe):
    from convmixer_keras.convert import evaluation as tflite_evaluation
    from convmixer_keras.data import preprocessing as preprocessing_module
    from convmixer_keras.training import evaluation, run_folder
    from convmixer_keras.utils import progress

    folder = run_folder.RunFolder(os.path.dirname(arguments.evaluate) or ".")
    if folder.holds_run() and arguments.recipe is None:  # A model is evaluated as its run says.
        recipe = dataclasses.replace(saved_recipe(folder), **arguments.overrides)
    preprocessing = preprocessing_module.of(arguments.evaluate)
    if preprocessing is not None:
        fields = ("crop_pct", "interpolation", "orientation")
        changes = {name: arguments.overrides[name] for name in fields if name in arguments.overrides}
        preprocessing = dataclasses.replace(preprocessing, **changes)
    if arguments.evaluate.endswith(".tflite"):
        scores = tflite_evaluation.evaluate(
            arguments.evaluate,
            recipe,
            arguments.data_dir,
            preprocessing=preprocessing,
            max_bad_images=arguments.max_bad_images,
            counted=lambda examples, size: progress.shown(examples, "evaluating", size, "images"),
        )
    else:
        scores = evaluation.evaluate(
            arguments.evaluate,
            recipe,
            arguments.data_dir,
            progress.keras_verbosity(),
            preprocessing=preprocessing,
            max_bad_images=arguments.max_bad_images,
        )
    print(
        f"{arguments.evaluate} on {recipe.dataset}, {scores.images} images: "
        f"loss {scores.loss:.4f}, top-1 {100 * scores.top1:.2f} %, top-5 {100 * scores.top5:.2f} %"
    )
    return command_line.DONE


def saved_recipe(folder):
    """The recipe of an earlier run."""
    return from_saved(folder.read_config()["recipe"])


def parse(argv):
    """Returns the parsed arguments and the recipe with its overrides."""
    chooser = argparse.ArgumentParser(add_help=False)
    chooser.add_argument("--recipe", choices=RECIPES)
    chooser.add_argument("--dataset")
    chosen = chooser.parse_known_args(argv)[0]
    name = chosen.recipe or recipe_name_for(chosen.dataset or RECIPES[DEFAULT_RECIPE].dataset)
    recipe = RECIPES[name]

    installed = os.path.basename(sys.argv[0]) == "convmixer-train"
    text = __doc__.replace("python train_keras.py", "convmixer-train") if installed else __doc__
    parser = command_line.parser(text)
    run = parser.add_argument_group("the run")
    run.add_argument("--recipe", choices=RECIPES, help="the settings (default: those that fit the data set)")
    run.add_argument("--output", metavar="DIR", help="folder for what the run writes (default: runs/RECIPE)")
    existing = run.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on where the run in --output stopped")
    existing.add_argument("--overwrite", action="store_true", help="remove the run in --output first")
    run.add_argument(
        "--init-from",
        metavar="FILE_OR_NAME",
        help="start from a trained body: a .keras or .weights.h5 file, hf://USER/REPO, or a builder's name",
    )
    run.add_argument(
        "--freeze",
        type=int,
        default=0,
        metavar="N",
        help="leave the patch embedding and N blocks as they are",
    )
    run.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its files")
    run.add_argument(
        "--strategy",
        choices=("auto", "one", "mirrored", "multiworker", "tpu"),
        default="auto",
        help="which devices and machines; auto takes all there are",
    )
    run.add_argument(
        "--peer-timeout", type=float, default=600, metavar="S", help="seconds to wait for the others to start"
    )
    run.add_argument(
        "--checkpoint-every",
        type=int,
        default=0,
        metavar="N",
        help="steps between checkpoints within an epoch; 0 for one after each epoch",
    )
    run.add_argument(
        "--max-bad-images", type=int, default=0, metavar="N", help="damaged files of a folder to leave out"
    )
    run.add_argument(
        "--rematerialize", action="store_true", help="compute activations twice rather than keep them"
    )
    run.add_argument(
        "--deterministic", action="store_true", help="the same weights in every run on a GPU, too; slower"
    )
    run.add_argument(
        "--steps-per-execution", type=int, default=1, metavar="N", help="steps per compiled call"
    )
    instead = parser.add_argument_group("instead of training")
    instead.add_argument(
        "--evaluate", metavar="FILE", help="print loss, top-1 and top-5 of a .keras or .tflite file"
    )
    instead.add_argument(
        "--preview",
        type=command_line.picture,
        metavar="FILE",
        help="write a picture of an augmented batch, .png",
    )

    recipe_flags.add_recipe_flags(parser, recipe)
    arguments = parser.parse_args(argv)
    arguments.overrides = recipe_flags.recipe_overrides(arguments)
    arguments.recipe_name = name
    return arguments, dataclasses.replace(recipe, **arguments.overrides)


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
