"""What may change when a run is resumed, and how the change is recorded."""

import dataclasses
import os
import sys

import keras

from convmixer_keras.data.datasets import check_dataset
from convmixer_keras.training.run.run_folder import CHECKPOINT, CONFIG
from convmixer_keras.utils.errors import InputError, arg

# These change neither the checkpoint's network nor the data set's images, which `check_data` looks at.
CHANGEABLE = (
    "dataset",
    "learning_rate",
    "weight_decay",
    "clip_norm",
    "epochs",
    "patience",
    "dtype_policy",
    "test_split",
)


def changes(saved, recipe):
    """Returns what differs between two recipes, name: [before, now]; raises InputError where it must not."""
    found = {}
    for field in dataclasses.fields(saved):
        before, now = getattr(saved, field.name), getattr(recipe, field.name)
        if before == now:
            continue
        if field.name not in CHANGEABLE:
            raise InputError(
                f"{arg(field.name)} must be {before!r}, as when the run began, to resume it; got {now!r}. "
                f"A resume may change {', '.join(CHANGEABLE)}"
            )
        found[field.name] = [before, now]
    return found


def check_folder(folder, recipe, settings, resume, overwrite):
    """Raises InputError if a run cannot begin in a `RunFolder`, or not go on with these settings."""
    folder.check_free()
    if not resume:
        check_dataset(recipe.dataset, settings.data_dir)
        if folder.has_begun() and not overwrite:
            raise InputError(
                f"{folder.path} already holds a run: go on with it by {arg('resume', True)}, replace it "
                f"by {arg('overwrite', True)}, or choose another {arg('output')}"
            )
        return
    changes(folder.recipe(), recipe)
    began = folder.settings()
    for name in ("init_from", "freeze"):  # A checkpoint has the body, and the optimizer of what is trained.
        before, now = getattr(began, name), getattr(settings, name)
        if before != now:
            raise InputError(
                f"{arg(name)} must be {before!r}, as when the run began, to resume it; got {now!r}"
            )
    if not os.path.exists(folder[CHECKPOINT]):
        raise InputError(
            f"{folder.path} has no {CHECKPOINT} to go on from: start again without {arg('resume')}"
        )


def note_place(folder, recipe):
    """Warns of a run's folder that lies in its data set."""
    root, own = os.path.realpath(recipe.dataset), os.path.realpath(folder.path)
    is_folder = os.path.isabs(recipe.dataset) and os.path.isdir(root)
    if is_folder and os.path.commonpath((root, own)) == root:
        print(
            f"note: {folder.path} lies in the data set: when that is read again, by a resume or an "
            f"evaluation, the run's pictures are taken for photographs; choose another {arg('output')}",
            file=sys.stderr,
        )


def facts(data):
    """Returns what `config.json` says of a `Data`."""
    return {
        "class_names": list(data.class_names),
        "train_images": data.train_size,
        "validation_images": data.validation_size,
        "fingerprints": list(data.fingerprints),
    }


def check_data(folder, data, accepted):
    """Raises InputError where images are not those that a run began with, or others are `accepted`."""
    began, now = folder.read_config(), facts(data)
    if missing := [name for name in now if name not in began]:
        raise InputError(f"{folder[CONFIG]} lacks {missing[0]!r}")
    if began["class_names"] != now["class_names"]:
        before, there = (", ".join(map(str, names["class_names"])) for names in (began, now))
        raise InputError(f"the run in {folder.path} knows the classes {before}, and the data set has {there}")
    if all(began[name] == now[name] for name in now):
        return
    if accepted:
        print(
            "note: other images than before: the run may have trained on some that it validates on now",
            file=sys.stderr,
        )
        return
    before, there = (f"{each['train_images']} and {each['validation_images']}" for each in (began, now))
    raise InputError(
        f"the run in {folder.path} began with {before} images to train and to validate on, and now there are "
        f"{there if there != before else 'others, by their names or sizes'}: "
        f"{arg('accept_changed_data', True)} goes on"
    )


def note_changes(folder, progress, recipe, settings, data, devices, command):
    """Notes in a run's config what a resume changes, and after how many epochs."""
    if not folder:
        return
    config, before = folder.read_config(), dataclasses.asdict(folder.settings())
    now = {"recipe": dataclasses.asdict(recipe), "settings": dataclasses.asdict(settings)}
    changed = changes(folder.recipe(), recipe)
    changed |= {k: [before[k], value] for k, value in now["settings"].items() if before[k] != value}
    if config.get("strategy") != devices:
        changed["strategy"] = [config.get("strategy"), devices]
    changed |= {k: [config[k], value] for k, value in facts(data).items() if config[k] != value}
    if changed:
        note = {"after_epochs": progress.epochs, "changed": changed, "command": command}
        noted = [*config.get("changes", []), note]
        folder.write_config({**config, **now, **facts(data), "strategy": devices, "changes": noted})


def check_progress(progress, recipe, steps):
    """Raises InputError if a checkpoint is further than its run can be."""
    if progress.epochs > recipe.epochs or (progress.epochs == recipe.epochs and progress.batches):
        raise InputError(
            f"{arg('epochs')} must be at least {progress.epochs + bool(progress.batches)}, which the run has "
            f"begun, to resume it; got {recipe.epochs}"
        )
    if progress.batches > steps:
        raise InputError(
            f"the checkpoint was written {progress.batches} steps into an epoch, and an epoch has {steps}: "
            "the data set is another one"
        )


def finish_epoch(model, metrics, callbacks, validation, progress, epochs):
    """Validates and ends an epoch whose steps are all done, as `fit` would have."""
    sums = iter(progress.sums)
    logs = {metric.name: next(sums) / next(sums) for metric in metrics}  # A total and a count for each.
    run = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs)
    run.on_train_begin()
    run.on_epoch_begin(progress.epochs)
    found = model.evaluate(validation, callbacks=run, verbose=0, return_dict=True)
    run.on_epoch_end(progress.epochs, {**logs, **{f"val_{name}": value for name, value in found.items()}})
    run.on_train_end()


def exhausted(history, patience):
    """Whether the best validation accuracy of a run lies `patience` epochs back, or more; 0 is never."""
    if not patience or not history:
        return False
    best = max(history, key=lambda row: row["val_accuracy"])  # The first of equal ones.
    return history[-1]["epoch"] - best["epoch"] >= patience
