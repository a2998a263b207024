"""A trained model as a page of a hub: its files in every format, and a card of what was measured."""

import json
import os
import shutil
from typing import NamedTuple

from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.weights import checkpoint_file, to_torch
from convmixer_keras.images import preprocessing
from convmixer_keras.models import inputs, parts
from convmixer_keras.models.complexity import model_complexity
from convmixer_keras.models.saving import load_class_names, load_model
from convmixer_keras.training.run import run_folder
from convmixer_keras.utils import hub
from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.files import make_folder, written_whole

MODEL, WEIGHTS, CARD = "model.keras", "model.safetensors", "README.md"
CLASS_NAMES, PREPROCESSING = "class_names.txt", "preprocessing.json"
PLACEHOLDER = "hf://USER/REPO"  # In the card of a folder that is not uploaded.


class Page(NamedTuple):
    """What `write` made.

    Attributes:
        files: Names of the files in the folder.
        left_out: Dict from the name of a file that could not be made to the reason.
    """

    files: list
    left_out: dict


def write(path, folder, *, calibration=None, name=PLACEHOLDER, verbose=False):
    """Writes what a hub's page needs: the model in every format, and a card.

    `model.keras`, `model.safetensors` (timm's names), `model-MODE.tflite` for the four modes,
    `class_names.txt`, `preprocessing.json`, `README.md`, and of a training run `config.json`, `history.csv`
    and `curves.png`. The card states data, recipe and accuracy as the run recorded them, and
    leaves them out for a model without a run.

    Args:
        path: A `.keras` file; a run's is known by the `config.json` beside it.
        folder: Where to put the files; made if need be; other files in it stay.
        calibration: Images for int8 and for comparing the `.tflite` files, as in `tflite.export`; None takes
            the run's own data, digits or a folder; where that is not at hand, random images, and no int8.
        name: "hf://USER/REPO", where the folder will be uploaded: the card says to load the model from there.
        verbose: Whether to print how far it is.

    Returns:
        A `Page`.

    Raises:
        InputError: If the file is not a ConvMixer of this package, or the folder cannot be written to.
    """
    model = load_model(path)
    names, record = load_class_names(path), preprocessing.of(path)
    run = run_folder.RunFolder(os.path.dirname(path) or ".")
    config = run.read_config() if run.holds_run() and _is_of_run(path) else None
    make_folder(folder)

    def put(name):
        return os.path.join(folder, name)

    files, left_out = [], {}
    with written_whole(put(MODEL)) as temporary:
        shutil.copyfile(path, temporary)
    files.append(MODEL)
    try:
        checkpoint_file.write_checkpoint(to_torch.to_state_dict(model), put(WEIGHTS))
        files.append(WEIGHTS)
    except InputError as error:  # An ablation, which timm's network has no counterpart for.
        left_out[WEIGHTS] = str(error)
    exports, calibration = {}, _training_data(config) if calibration is None else calibration
    for mode in tflite.MODES:
        file = f"model-{mode}.tflite"
        try:
            exports[file] = _export(model, put(file), mode, names, record, calibration, verbose)
            files.append(file)
        except InputError as error:
            left_out[file] = str(error)
    texts = {CLASS_NAMES: None if names is None else "\n".join(names) + "\n"}
    texts[PREPROCESSING] = None if record is None else record.to_json() + "\n"
    if config is not None:
        for file in (run_folder.CONFIG, run_folder.HISTORY, run_folder.CURVES):
            if os.path.exists(run[file]):
                with written_whole(put(file)) as temporary:
                    shutil.copyfile(run[file], temporary)
                files.append(file)
    history = run.read_history() if config is not None else []
    files += [file for file, text in texts.items() if text]
    texts[CARD] = card(model, os.path.basename(path), names, record, config, history, exports, files, name)
    for file, text in texts.items():
        if text:
            with written_whole(put(file)) as temporary, open(temporary, "w", encoding="utf-8") as opened:
                opened.write(text)
    return Page([*files, CARD], left_out)


def _is_of_run(path):
    return os.path.basename(path) in (run_folder.BEST_MODEL, run_folder.LAST_MODEL)


def _training_data(config):
    """Returns a run's data set where it is at hand, or None."""
    dataset = config["recipe"]["dataset"] if config else None
    return dataset if dataset == "digits" or os.path.isdir(str(dataset)) else None


def _export(model, path, mode, names, record, calibration, verbose):
    return tflite.export(
        model,
        path,
        mode,
        calibration=calibration,
        labels=names,
        size=inputs.image_size(model, record),
        preprocessing=record,
        verbose=verbose,
    )


def upload(folder, name, private=False):
    """Uploads a folder to a Hugging Face repository, which is made if need be.

    Args:
        folder: What `write` wrote.
        name: "hf://USER/REPO".
        private: Whether a repository that is made is private.

    Returns:
        The address of the commit.

    Raises:
        InputError: If the name is not of a repository.
        Failure: If the hub refuses or cannot be reached.
    """
    repository = hub.parse(name).repository
    try:
        api = hub.api()
        api.create_repo(repository, exist_ok=True, private=private or None)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload a ConvMixer from convmixer-keras"
        )
        return commit.commit_url
    except Exception as error:  # Of a dozen classes, among them those of its HTTP client.
        raise Failure(f"cannot upload to {name}: {hub.reason(error)}") from None


def card(model, file, names, record, config, history, exports, files, name=PLACEHOLDER):
    """Returns the text of a model card in Markdown, which states only what is known."""
    size = parts.of(model).sizes
    shape = (*inputs.image_size(model), size.channels)
    parameters, multiply_adds = model_complexity(model, shape)
    lines = [
        "---",
        "library_name: keras",
        "pipeline_tag: image-classification",
        "tags:",
        "- convmixer",
        "- image-classification",
        "---",
        "",
        f"# ConvMixer-{size.hidden_dim}/{size.depth}",
        "",
        f"{size}. {parameters:,} parameters, {multiply_adds:,} multiply-adds at {shape[0]}x{shape[1]}.",
        "",
        *_training(file, config, history),
        *(["![Learning curves](curves.png)", ""] if run_folder.CURVES in files else []),
        "## Input",
        "",
        f"Photographs: {record}." if record else "The file does not say how photographs become its input.",
        "",
        *_classes(names),
        *_exports(exports),
        "## Use",
        "",
        "```text",
        f'model = convmixer_keras.inference.load("{name}")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _training(file, config, history):
    if config is None:
        return ["## Training", "", "Nothing is recorded about its training.", ""]
    recipe, versions = config["recipe"], config.get("versions", {})
    lines = ["## Training", "", f"Data: {recipe['dataset']}"]
    if "train_images" in config:
        lines[-1] += (
            f", {config['train_images']:,} images to train on and {config['validation_images']:,} to validate"
        )
    lines[-1] += "."
    if history:
        best = max(history, key=lambda row: row["val_accuracy"])
        row = history[-1] if file == run_folder.LAST_MODEL else best
        chosen = "" if row is history[-1] else ", the best of the run by this accuracy"
        lines += [
            "",
            f"Validation accuracy {100 * row['val_accuracy']:.2f} % after epoch {row['epoch']} of "
            f"{recipe['epochs']}{chosen}.",
        ]
    lines += ["", "| setting | value |", "| --- | --- |"]
    lines += [f"| {name} | {json.dumps(value)} |" for name, value in recipe.items()]
    if versions:
        made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines += ["", f"Made with {made_with}."]
    return [*lines, ""]


def _classes(names):
    if not names:
        return []
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return ["## Classes", "", f"{len(names)}: {shown}.", ""]


def _exports(exports):
    if not exports:
        return []
    lines = [
        "## TFLite files",
        "",
        "Each was run against the Keras model on the same images.",
        "",
        "| file | MB | largest difference | same top-1 | images |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, report in exports.items():
        top1 = "" if report.same_top1 is None else f"{report.same_top1} of {report.images}"
        difference = f"{report.largest_difference:.2g}"
        lines.append(f"| {name} | {report.size / 1e6:.2f} | {difference} | {top1} | {report.images} |")
    return [*lines, ""]
