"""Publishes a trained model: its files in every format and a model card, in a folder or on Hugging Face.

  convmixer-publish runs/photos/model.keras published/
  convmixer-publish runs/photos/model.keras hf://USER/REPO --license apache-2.0

The card states the data, recipe and accuracy that the training run recorded. To upload, set HF_TOKEN or run
`hf auth login`.
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
from typing import NamedTuple

from convmixer_keras.commands.earlier_run import training_images
from convmixer_keras.utils import command_line, hub, streams
from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.files import check_local, make_folder, temporary_folder
from convmixer_keras.utils.text import one_line

MODEL, WEIGHTS, ONNX, CARD = "model.keras", "model.safetensors", "model.onnx", "README.md"
CLASS_NAMES, PREPROCESSING = "class_names.txt", "preprocessing.json"
TFLITE = "model-{}.tflite"  # By its mode.
OF_THE_RUN = CONFIG, HISTORY, CURVES = "config.json", "history.csv", "curves.png"


class Page(NamedTuple):
    """What `write` made.

    Attributes:
        files: Names of the files in the folder.
        left_out: Dict from the name of a file that could not be made to the reason.
        unverified: Names of the files that nothing here could compare with the model.
    """

    files: list
    left_out: dict
    unverified: list


def main(argv=None):
    arguments = _parser().parse_args(argv)
    command_line.need_tensorflow()
    uploading = hub.is_name(arguments.destination)
    if uploading:
        _repository(arguments.destination)
    elif arguments.private:
        raise InputError(f"--private is for hf://USER/REPO, got {arguments.destination}")
    else:
        check_local(arguments.destination)
        make_folder(arguments.destination)
        _check_empty(arguments.destination)
    streams.quiet_start()
    from convmixer_keras.convert.export import source
    from convmixer_keras.data.datasets import check_dataset

    model, *_ = source.opened(arguments.model)  # Before a repository is made for it.
    source.scored(model)
    if arguments.calibration is not None:
        check_dataset(arguments.calibration)
    if uploading:
        make_repository(arguments.destination, arguments.private)
    with temporary_folder(".publishing-", None if uploading else arguments.destination) as folder:
        with streams.silence():
            page = write(
                arguments.model,
                folder,
                calibration=arguments.calibration,
                license=arguments.license,
                name=arguments.destination if uploading else None,
                verbose=True,
            )
        for name in page.files:
            print(f"  {name}")
        for name, reason in page.left_out.items():
            print(f"  left out {name}: {one_line(reason)}")
        if page.unverified:
            print(f"  not verified: {', '.join(page.unverified)}")
        if uploading:
            address = _upload_or_keep(folder, arguments.destination)
            print(f'uploaded: {address}\nload it: convmixer_keras.inference.load("{arguments.destination}")')
        else:
            for name in page.files:
                os.replace(os.path.join(folder, name), os.path.join(arguments.destination, name))
            print(f"wrote {one_line(arguments.destination)}")
    return command_line.DONE


def _parser():
    parser = command_line.parser(__doc__, prog="convmixer-publish")
    parser.add_argument("model", metavar="MODEL.keras", help="the model, in its run's folder if it has one")
    parser.add_argument("destination", metavar="DESTINATION", help="a new or empty folder, or hf://USER/REPO")
    parser.add_argument(
        "--calibrate",
        dest="calibration",
        metavar="SOURCE",
        help="images for int8 and for comparing the .tflite files (default: the run's training images, where "
        "they are in a folder of their own)",
    )
    parser.add_argument(
        "--license", metavar="ID", help="of the model, as Hugging Face calls it, such as apache-2.0"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    return parser


def _check_empty(folder):
    """Raises InputError where files of another model could stay beside the new ones."""
    if found := sorted(os.listdir(folder)):
        raise InputError(f"{folder} is not empty, it holds {found[0]}: name a new or empty folder")


def write(path, folder, *, calibration=None, license=None, name=None, verbose=False):
    """Writes what a hub's page needs: the model in every format, and a card.

    `model.keras`, `model.safetensors` (timm's names), `model.onnx`, `model-MODE.tflite` for each mode,
    `class_names.txt`, `preprocessing.json`, `README.md`, and of a training run `config.json`, `history.csv`
    and `curves.png`.
    Nothing in them names a folder of this machine.

    Args:
        path: A `.keras` file. Its run is the one that recorded this file, byte by byte, in the same folder.
        folder: An empty folder.
        calibration: Images for int8 and for comparing the `.tflite` files, as in `tflite.export`; None takes
            what of the run's own data is surely trained on, digits or a folder; where that is not at hand,
            random images, and no int8.
        license: Of the model, as Hugging Face calls it, or None.
        name: "hf://USER/REPO", where the folder will be uploaded: the card says to load the model from there.
        verbose: Whether to print how far it is.

    Returns:
        A `Page`.

    Raises:
        InputError: If the file is not a ConvMixer of this package, or the folder cannot be written to.
    """
    from convmixer_keras.commands import convert, model_card
    from convmixer_keras.convert.export import onnx, source, tflite
    from convmixer_keras.training.run import run_folder

    model, class_names, preprocessing = source.opened(path)
    run = run_folder.RunFolder(os.path.dirname(path) or ".")
    epoch = run.epoch_of(path) if run.holds_run() else None
    config = None if epoch is None else _without_paths(run.read_config())

    def put(name, text):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
        files.append(name)

    if calibration is None and epoch is not None:
        calibration = training_images(run.recipe())
    files, left_out, unverified, exports = [MODEL], {}, [], {}
    shutil.copyfile(path, os.path.join(folder, MODEL))

    def make(file, function, *arguments, **options):
        """Writes a file, or notes why it cannot be had: it does not compute what the model does."""
        try:
            report = function(*arguments, **options)
            files.append(file)
            return report
        except (InputError, Failure) as error:
            left_out[file] = str(error)

    with contextlib.redirect_stdout(io.StringIO()):  # It tells of the file and its folder.
        if make(WEIGHTS, convert.write_torch, path, os.path.join(folder, WEIGHTS), "timm") is False:
            unverified.append(WEIGHTS)
    about = {"class_names": class_names, "preprocessing": preprocessing}
    report = make(ONNX, onnx.export, model, os.path.join(folder, ONNX), **about)
    if report and report.agreement is None:
        unverified.append(ONNX)
    about = {"labels": class_names, "preprocessing": preprocessing, "license": license}
    for mode in tflite.MODES:
        file = TFLITE.format(mode)
        options = {**about, "calibration": calibration, "verbose": verbose}
        if report := make(file, tflite.export, model, os.path.join(folder, file), mode, **options):
            exports[file] = report
    if class_names:
        put(CLASS_NAMES, "".join(f"{name}\n" for name in class_names))
    if preprocessing:
        put(PREPROCESSING, preprocessing.to_json() + "\n")
    if config:
        put(CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        for file in (HISTORY, CURVES):
            if os.path.exists(run[file]):
                shutil.copyfile(run[file], os.path.join(folder, file))
                files.append(file)
    row = next((row for row in run.read_history() if row["epoch"] == epoch), None) if config else None
    card = model_card.card(
        model,
        class_names,
        preprocessing,
        config,
        row,
        exports,
        files,
        license=license,
        name=name,
        images="random images" if calibration is None else "images",
        unverified=unverified,
    )
    put(CARD, card)
    return Page(files, left_out, unverified)


def _without_paths(config):
    """Returns what a run's config says to others: of a folder only its name, of the command nothing."""
    recipe = dict(config["recipe"])
    if os.path.isdir(recipe["dataset"]) or recipe["dataset"].startswith((os.sep, ".", "~")):
        recipe["dataset"] = os.path.basename(os.path.abspath(recipe["dataset"]))
    told = ("class_names", "train_images", "validation_images", "parameters", "multiply_adds", "versions")
    return {"recipe": recipe, **{name: config[name] for name in told if name in config}}


def _repository(name):
    """Returns USER/REPO of "hf://USER/REPO"; raises InputError for the name of anything else."""
    repository, file, revision = hub.parse(name)
    if file or revision:
        raise InputError(f"the destination must be a folder or hf://USER/REPO, got {name}")
    return repository


def make_repository(name, private=False):
    """Makes a Hugging Face repository where there is none, which shows whether files can go there.

    Args:
        name: "hf://USER/REPO".
        private: Whether a repository that is made is private.

    Raises:
        Failure: If the hub refuses or cannot be reached.
        InputError: If `private`, and the repository is there and public.
    """
    try:
        hub.api().create_repo(_repository(name), exist_ok=True, private=private or None)
        is_public = private and not hub.api().model_info(_repository(name)).private
    except Exception as error:  # Of a dozen classes, among them those of its HTTP client.
        raise Failure(f"cannot publish to {name}: {hub.reason(error)}") from None
    if is_public:  # The hub has overlooked `private`.
        raise InputError(f"{name} is there and public: --private is for a new repository")


def upload(folder, name):
    """Uploads a folder to a Hugging Face repository.

    Files that an earlier upload of another model left there are removed; others stay.

    Args:
        folder: What `write` wrote.
        name: "hf://USER/REPO", which exists.

    Returns:
        The address of the commit.

    Raises:
        Failure: If the hub refuses or cannot be reached.
    """
    made = [MODEL, WEIGHTS, ONNX, TFLITE.format("*"), CLASS_NAMES, PREPROCESSING, *OF_THE_RUN]
    try:
        commit = hub.api().upload_folder(
            repo_id=_repository(name),
            folder_path=folder,
            delete_patterns=made,
            commit_message="Upload a ConvMixer from convmixer-keras",
        )
        return commit.commit_url
    except Exception as error:  # Of a dozen classes, among them those of its HTTP client.
        raise Failure(f"cannot upload to {name}: {hub.reason(error)}") from None


def _upload_or_keep(folder, name):
    """Uploads what is in a temporary folder; it stays in another one until that has succeeded."""
    kept = tempfile.mkdtemp(prefix="published-")
    os.rename(folder, kept)
    print(f"uploading {kept}", flush=True)
    try:
        address = upload(kept, name)
    except Failure as error:
        again = f"hf upload {_repository(name)} {kept}"
        raise Failure(f"{error}; the files are kept in {kept}: {again}") from None
    shutil.rmtree(kept)
    return address


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
