#!/usr/bin/env python3
"""The paper's ablations on CIFAR-10: change one thing at a time, train, compare with the baseline.

  python ablation.py                                           CIFAR-10 through tensorflow-datasets
  python ablation.py --dataset digits --epochs 10              scikit-learn's digits: nothing to download
  python ablation.py --dataset photos/ --image-size 64         a folder photos/SPLIT/CLASS/*.jpg
  python ablation.py --hidden-dim 32 --depth 4 --epochs 5      smaller and shorter

Each run has its own folder under --output, like those of train_keras.py. The same command given again
goes on after the last finished epoch. The flags of the recipe set the baseline, from which each line of STUDY
departs.
"""

import csv
import dataclasses
import os
import re
import shlex
import sys

from convmixer_keras.commands import flags
from convmixer_keras.recipes import CIFAR10_FAST, IMAGENET, RECIPES, Recipe
from convmixer_keras.training.run.run_folder import RunFolder
from convmixer_keras.utils import command_line, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import make_folder, written_whole
from convmixer_keras.utils.text import counted

# The model of the authors' CIFAR-10 script under the ImageNet settings' optimizer and
# augmentation, except the crops, which are those that their CIFAR-10 script has by default.
BASELINE = dataclasses.replace(
    CIFAR10_FAST,
    batch_size=128,
    learning_rate=IMAGENET.learning_rate,
    weight_decay=IMAGENET.weight_decay,
    decayed_weights=IMAGENET.decayed_weights,
    epsilon=IMAGENET.epsilon,
    clip_norm=IMAGENET.clip_norm,
    crop_area=(0.75, 1.0),
    randaugment_magnitude=IMAGENET.randaugment_magnitude,
    randaugment_std=IMAGENET.randaugment_std,
    erasing_probability=IMAGENET.erasing_probability,
    mixup_alpha=IMAGENET.mixup_alpha,
    cutmix_alpha=IMAGENET.cutmix_alpha,
)


# A name, what it changes of the baseline, and the difference in points of top-1 accuracy that the paper
# (arXiv:2201.09792) gives for it, if it gives one.
STUDY = [
    ("baseline", {}, None),
    ("without the residual", {"residual": False}, -0.31),
    ("LayerNorm for BatchNorm", {"normalization": "layer"}, -1.0),  # "about"
    ("ReLU for GELU", {"activation": "relu"}, None),
    ("without RandAugment", {"randaugment_ops": 0}, None),
    ("without random scaling", {"crop_area": (1.0, 1.0)}, None),
    ("without mixup", {"mixup_alpha": 0.0}, None),
    ("without cutmix", {"cutmix_alpha": 0.0}, None),
    ("without erasing", {"erasing_probability": 0.0}, None),
    ("without gradient clipping", {"clip_norm": 0.0}, None),
    ("kernel 3", {"kernel_size": 3}, -1.5),  # 3 to 5 +1.5, 5 to 7 +0.61, and 7 to 15 +0.28
    ("kernel 5", {"kernel_size": 5}, 0.0),
    ("kernel 7", {"kernel_size": 7}, 0.61),
    ("kernel 9", {"kernel_size": 9}, None),
    ("patch 1", {"patch_size": 1}, None),
    ("patch 2", {"patch_size": 2}, None),
    ("patch 4", {"patch_size": 4}, None),
]


def main(argv=None):
    parser = command_line.parser(__doc__)
    study = parser.add_argument_group("the study")
    study.add_argument("--output", default="runs/ablation", metavar="DIR", help="folder of the runs")
    study.add_argument(
        "--results", metavar="DIR", help="folder of the table and the chart (default: --output)"
    )
    study.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its files")
    flags.add_flags(parser, BASELINE)
    arguments = parser.parse_args(argv)
    baseline = baseline_on(flags.given(arguments, Recipe))
    results = arguments.results or arguments.output
    streams.quiet_start()

    rows = []
    for name, changes, paper in STUDY:
        recipe = dataclasses.replace(baseline, **changes)
        # A line that is the baseline, such as kernel 5, needs no separate run.
        run = "baseline" if recipe == baseline else name.replace(" ", "-")
        folder = RunFolder(os.path.join(arguments.output, run))
        history = train(recipe, folder, arguments.data_dir)
        top1 = 100 * history[-1]["val_accuracy"]
        rows.append(
            {
                "ablation": name,
                "top1": top1,
                "difference": top1 - rows[0]["top1"] if rows else 0.0,
                "paper": paper if _is_the_papers(baseline) else None,
                "parameters": folder.read_config()["parameters"],
                "minutes": sum(epoch["seconds"] for epoch in history) / 60,
            }
        )
        print(f"{name}: {top1:.2f} %", flush=True)
        # After every run, so that a study that is stopped shows what it has.
        write(results, rows, baseline, RunFolder(os.path.join(arguments.output, "baseline")).read_config())
    print(f"wrote README.md, ablation.csv and ablation.png into {results}")


def baseline_on(given):
    """Returns the baseline with these settings, on images as the data set's own recipe has them."""
    own = (recipe for recipe in RECIPES.values() if recipe.dataset == given.get("dataset"))
    images = next(own, BASELINE)
    facts = {name: getattr(images, name) for name in ("image_size", "mean", "std")}
    return dataclasses.replace(BASELINE, **{**facts, **given})


def _is_the_papers(baseline):
    """Whether the paper's differences belong beside these: its data, and kernels compared with its 5x5."""
    name = os.path.basename(os.path.normpath(baseline.dataset))
    return bool(re.search(r"cifar10(?!\d)", name)) and baseline.kernel_size == 5


def train(recipe, folder, data_dir):
    """Returns the epochs of a run: read if it is finished, or else trained from where it stopped."""
    import keras

    from convmixer_keras.training import trainer as training

    resume = folder.has_begun()
    if resume and folder.recipe() != recipe:
        raise InputError(f"{folder.path} holds a run of other settings: choose another --output")
    history = folder.read_history()
    if len(history) == recipe.epochs:
        return history
    keras.backend.clear_session()
    print(f"\n{folder.path}", flush=True)
    return training.train(recipe, folder.path, training.Settings(data_dir=data_dir), resume=resume, verbose=2)


def write(results, rows, recipe, config):
    """Writes the rows as a Markdown table, a CSV file and a chart."""
    make_folder(results)
    with written_whole(os.path.join(results, "ablation.csv")) as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with written_whole(os.path.join(results, "ablation.png")) as path:
        chart(rows).savefig(path)
    with written_whole(os.path.join(results, "README.md")) as path, open(path, "w") as file:
        file.write(report(rows, recipe, config))


def report(rows, recipe, config):
    images, share = config["validation_images"], rows[0]["top1"] / 100
    lines = [
        "# Ablations",
        "",
        f"ConvMixer-{recipe.hidden_dim}/{recipe.depth}, patch {recipe.patch_size}, kernel "
        f"{recipe.kernel_size}, on {os.path.basename(os.path.normpath(recipe.dataset))} at "
        f"{recipe.image_size}x{recipe.image_size}: {config['train_images']:,} training and {images:,} test "
        f"images, {counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, seed {recipe.seed}. "
        "Top-1 accuracy is that of the last epoch. Each line is one run, and changes one thing of the "
        "baseline.",
        "",
        f"The choice of {images:,} test images gives a difference a standard deviation of "
        f"{100 * (2 * share * (1 - share) / images) ** 0.5:.1f} points, and another seed would add to it. "
        "The paper's differences, given for CIFAR-10 only, are those of a larger model trained for longer; "
        "those of kernels come as steps: 3 to 5 +1.5, 5 to 7 +0.61, 7 to 15 +0.28.",
        "",
        "| | top-1, % | difference | the paper's | parameters | minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        paper = "" if row["paper"] is None else f"{row['paper']:+.2f}"
        lines.append(
            f"| {row['ablation']} | {row['top1']:.2f} | {row['difference']:+.2f} | {paper} | "
            f"{row['parameters']:,} | {row['minutes']:.1f} |"
        )
    lines += [
        "",
        "![Differences to the baseline](ablation.png)",
        "",
        "```sh",
        shlex.join(["python", *sys.argv]),
        "```",
    ]
    return "\n".join(lines) + "\n"


def chart(rows):
    """Draws the differences to the baseline as bars, and the paper's beside them."""
    from convmixer_keras.utils.figures import new_figure

    figure = new_figure(7, 0.8 + 0.3 * len(rows))
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row["difference"] for row in rows], color="C0", label="here")
    paper = [
        (place, row["paper"]) for place, row in zip(places, rows, strict=True) if row["paper"] is not None
    ]
    if paper:
        places_of, values = zip(*paper, strict=True)
        axes.plot(values, places_of, "D", color="C1", label="the paper, CIFAR-10")
        axes.legend(frameon=False)
    axes.set_yticks(places, [row["ablation"] for row in rows])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"top-1 accuracy, points from the baseline's {rows[0]['top1']:.2f} %")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    command_line.run(main)
