"""Says what is on photographs, with a model of your own or with published weights.

  convmixer-predict photos/ --model runs/photos/model.keras       a folder, with the folders in it
  convmixer-predict dog.jpg cat.jpg --model model.tflite          single files; without TensorFlow
  convmixer-predict dog.jpg --model ConvMixer1024_20              ImageNet's 1,000 classes
  convmixer-predict photos/ --csv answers.csv --sheet sheet.png   as a table, and as pictures
  convmixer-predict photos/ --only-wrong --sheet wrong.png        what the model gets wrong

Prints the likeliest classes of each photograph with their probabilities. A photograph in a folder that is
named like one of the model's classes is right or wrong, and the accuracy on those is printed. What cannot be
read is listed at the end, with exit code 1; everything else is predicted. Without --model, ConvMixer1024_20
is taken where its ImageNet weights have been fetched before, and otherwise ConvMixer256_8_P2, whose CIFAR-10
weights are part of this package.
"""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import sys

from convmixer_keras.commands import answers, flags
from convmixer_keras.commands.answers import Answer
from convmixer_keras.images.class_names import imagenet_classes, known_as, published_classes
from convmixer_keras.images.listing import list_images, other_files
from convmixer_keras.images.predictor import BATCH
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.images.scores import SCORES
from convmixer_keras.utils import command_line, extras, progress, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import check_output
from convmixer_keras.utils.text import one_line


def main(argv=None):
    arguments = _parser().parse_args(argv)
    photos = find(arguments.photos)
    _check_outputs(arguments, [path for path, _ in photos])
    known = _opened(arguments)
    photos = _with_truth(known, photos)
    if arguments.only_wrong and not any(truth for _, truth, _ in photos):
        raise InputError("--only-wrong needs photographs in folders that are named like the model's classes")
    bad, right, wrong = [], 0, 0
    batches = predicted(known, photos, arguments.top, bad)
    first = next(batches)  # If the model gives nothing, files of earlier answers stay.
    with contextlib.ExitStack() as stack:
        writers = [answers.print_answers]
        for kind, output in ((answers.Table, arguments.csv), (answers.JsonList, arguments.json)):
            if output:
                writers.append(stack.enter_context(kind(output)).write)
        if arguments.sheet:
            writers.append(stack.enter_context(answers.Sheet(arguments.sheet)).write)
        for batch in itertools.chain([first], batches):
            wrong += sum(answer.is_wrong for answer in batch)
            right += sum(answer.truth is not None and not answer.is_wrong for answer in batch)
            if arguments.only_wrong:
                batch = [answer for answer in batch if answer.is_wrong]
            for write in writers:
                write(batch)
    if right or wrong:
        print(
            f"accuracy: {100 * right / (right + wrong):.2f} %, {right:,} of the {right + wrong:,} "
            "photographs whose folder is a class"
        )
    return _report(bad, len(photos))


def find(paths):
    """Returns pairs of the photographs' paths and the folders that were named for them.

    A file that is not there is kept, to be listed with those that cannot be read, unless there is no other.
    One that is named twice, such as by its folder too, counts once.
    """
    found = {}
    for path in paths:
        if not os.path.isdir(path):
            found.setdefault(os.path.abspath(path), (path, os.path.dirname(path)))
            continue
        listing = list_images(path)
        for image in listing.images:
            found.setdefault(os.path.abspath(image), (image, path))
        if listing.left_out:
            others = one_line(other_files(listing.left_out))
            print(f"note: {one_line(path)}: left out {others}", file=sys.stderr)
    if not found:
        raise InputError(f"there are no images in {', '.join(paths)}")
    found = list(found.values())
    if not any(os.path.exists(path) for path, _ in found):
        raise InputError(f"there is no file {', '.join(path for path, _ in found)}")
    return found


def _check_outputs(arguments, photos):
    if arguments.sheet:
        extras.require("matplotlib")
    outputs = ((arguments.csv, ".csv"), (arguments.json, ".json"), (arguments.sheet, command_line.PICTURES))
    for output, endings in outputs:
        if output:
            check_output(output, endings, (*photos, arguments.model or ""))
    if arguments.sheet:
        if not os.path.isdir(os.path.dirname(arguments.sheet) or "."):
            raise InputError(f"cannot write {arguments.sheet}: no such file or directory")
        for number in range(1, -(-len(photos) // answers.PAGE)):
            if os.path.exists(page := answers.page(arguments.sheet, number)):
                check_output(page, command_line.PICTURES, photos)


def _opened(arguments):
    """Returns the model as a `Predictor` that names classes and says how photographs become its input."""
    if not str(arguments.model).endswith(".tflite"):
        streams.quiet_start()
    from convmixer_keras import inference

    with streams.silence_litert(arguments.model):
        changes = flags.given(arguments, Preprocessing)
        known = inference.load(arguments.model, scores=arguments.scores, **changes)
    known.check_names_classes()
    return known


def _with_truth(known, photos):
    """Returns for each photograph its path, the class that its folder is named like, and the class's numbers.

    Without such a folder, these are None and nothing. A WordNet id means one class, where its word may mean
    two.
    """
    numbers = collections.defaultdict(set)
    if known.has_names and known.classes > 1:  # Of a single score, the likeliest class is always the same.
        is_imagenets = list(known.class_names) == published_classes("imagenet")
        for number, name in enumerate(known.class_names):
            numbers[known_as(name)].add(number)
            numbers[imagenet_classes()[number][0] if is_imagenets else name].add(number)

    @functools.cache
    def truth(folder, root):
        """The name of the nearest folder that is a class, up to the one that the user named."""
        while True:
            name = os.path.basename(folder)
            if found := numbers.get(name) or numbers.get(known_as(name)):
                return known_as(name), found
            if folder == root or folder == os.path.dirname(folder):
                return None, ()
            folder = os.path.dirname(folder)

    return [
        (path, *truth(os.path.dirname(os.path.abspath(path)), os.path.abspath(root))) for path, root in photos
    ]


def predicted(known, photos, top, bad):
    """Yields the answers to photographs a batch at a time.

    Args:
        known: A `Predictor`.
        photos: What `_with_truth` returns.
        top: How many classes to name.
        bad: A list, to which it adds an error for each photograph that cannot be read.
    """
    preprocessing = known.preprocessing  # Where the file says none, this says so, once.
    photos = iter(progress.shown_if_slow(photos, "predicting", "photographs"))

    def read(photo):
        try:
            return known.picture(photo[0])
        except InputError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(itertools.islice(photos, BATCH)):
            pictures = list(pool.map(read, batch))
            bad += [picture for picture in pictures if isinstance(picture, InputError)]
            batch = [
                (*photo, picture)
                for photo, picture in zip(batch, pictures, strict=True)
                if not isinstance(picture, InputError)
            ]
            rows = known.top([preprocessing.normalized(picture) for *_, picture in batch], top)
            yield [Answer(*photo, row) for photo, row in zip(batch, rows, strict=True)]


def _report(bad, photos):
    """Lists the photographs that could not be read, and returns the exit code."""
    if not bad:
        return command_line.DONE
    lines = [f"error: {len(bad):,} of {photos:,} photographs could not be read:", *map(one_line, bad)]
    print((" " if len(bad) == 1 else "\n  ").join(lines), file=sys.stderr)
    return command_line.FAILED


def _parser():
    parser = command_line.parser(__doc__, prog="convmixer-predict")
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO_OR_FOLDER", help="image files, and folders of them"
    )
    parser.add_argument(
        "--model", help="a .keras or .tflite file, hf://USER/REPO, or a builder that has published weights"
    )
    parser.add_argument("--top", type=command_line.positive, default=3, metavar="N", help="classes to name")
    parser.add_argument("--scores", choices=SCORES, help="what the model gives, where its file does not say")
    parser.add_argument(
        "--only-wrong",
        action="store_true",
        help="print and write only photographs whose folder is another class than the likeliest",
    )
    parser.add_argument(
        "--csv", metavar="FILE", help="write file, rank, class, probability and the folder's class as a table"
    )
    parser.add_argument("--json", metavar="FILE", help="write the same as JSON")
    parser.add_argument(
        "--sheet",
        type=command_line.picture,
        metavar="FILE",
        help=f"draw photographs and answers, {answers.PAGE} on a page: FILE, FILE-2, FILE-3, ...",
    )
    flags.add_flags(parser, Preprocessing(), show_defaults=False)
    return parser


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
