#!/usr/bin/env python3
"""Says what is on photographs, with published weights or a model of your own.

  python examples/predict.py examples/photos/*/*.jpg                          CIFAR-10's ten classes
  python examples/predict.py dog.jpg cat.jpg --model ConvMixer1024_20         ImageNet's 1,000 classes
  python examples/predict.py photos/*.jpg --model runs/photos/model.keras     classes of your own
  python examples/predict.py photos/*.jpg --sheet sheet.png                   and all of it as one picture

Prints the likeliest classes of each photograph with their probabilities. The first use of a builder's
ImageNet weights fetches them; from then on ConvMixer1024_20 is taken where no --model is given, until then
ConvMixer256_8_P2, whose CIFAR-10 weights are part of this package. Took 23 s for 48 photographs with
ConvMixer-1024/20 on 4 cores of an AMD EPYC, start-up included.
"""

import csv
import json
import os

from convmixer_keras.commands import flags
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.images.scores import SCORES
from convmixer_keras.utils import command_line, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import check_output
from convmixer_keras.utils.text import one_line


def main():
    arguments = parse()
    streams.quiet_start()
    from convmixer_keras import applications, inference

    outputs = ((arguments.csv, ".csv"), (arguments.json, ".json"), (arguments.sheet, command_line.PICTURES))
    for output, endings in outputs:
        if output:
            check_output(output, endings, (*arguments.photos, arguments.model or ""))
    for path in arguments.photos:  # Before anything is fetched.
        if not os.path.exists(path):
            raise InputError(f"there is no file {path}")
    source = arguments.model or applications.default_builder()
    with streams.silence_litert(source):
        known = inference.load(source, scores=arguments.scores, **flags.given(arguments, Preprocessing))
    rows = known.top(arguments.photos, arguments.top)
    for path, row in zip(arguments.photos, rows, strict=True):
        print(one_line(path))
        for _, name, score in row:
            print(f"  {100 * score:5.1f} %  {one_line(name, 100)}")
    if arguments.csv:
        save_csv(arguments.csv, arguments.photos, rows)
    if arguments.json:
        save_json(arguments.json, arguments.photos, rows)
    if arguments.sheet:
        pictures = [known.picture(path) for path in arguments.photos]
        save_sheet(arguments.sheet, arguments.photos, pictures, rows, known.class_names)


def save_csv(path, photos, rows):
    from convmixer_keras.utils.files import written_whole

    with written_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("file", "rank", "class", "probability"))
        for photo, row in zip(photos, rows, strict=True):
            lines.writerows((photo, i, name, score) for i, (_, name, score) in enumerate(row, 1))
    print(f"wrote {one_line(path)}")


def save_json(path, photos, rows):
    from convmixer_keras.utils.files import written_whole

    found = [
        {"file": photo, "classes": [{"name": name, "probability": score} for _, name, score in row]}
        for photo, row in zip(photos, rows, strict=True)
    ]
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1, ensure_ascii=False)
    print(f"wrote {one_line(path)}")


def save_sheet(path, photos, images, rows, class_names):
    """Draws each photograph under its file's name, the truth where its folder is a class, and the answers."""
    from convmixer_keras.utils.figures import image_grid
    from convmixer_keras.utils.files import written_whole

    titles, wrong = [], []
    for number, (photo, row) in enumerate(zip(photos, rows, strict=True)):
        truth = os.path.basename(os.path.dirname(os.path.abspath(photo)))
        lines = [os.path.basename(photo)[-24:]]
        if truth in class_names:
            lines.append(f"is {truth[:22]}")
            if row[0][1] != truth:
                wrong.append(number)
        lines += [f"{name[:24]} {100 * score:.0f} %" for _, name, score in row[:3]]
        titles.append("\n".join(lines))
    with written_whole(path) as temporary:
        image_grid(images, titles, columns=6, wrong=wrong).savefig(temporary)
    print(
        f"wrote {one_line(path)}: the photographs as the network sees them, each with its three best classes"
    )
    if wrong:
        print(f"marked in red: {len(wrong)} whose folder is another class than the likeliest")


def parse():
    parser = command_line.parser(__doc__)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image files")
    parser.add_argument(
        "--model",
        help=".keras file, or a builder (default: one whose weights are here)",
    )
    parser.add_argument("--top", type=command_line.positive, default=3, metavar="N", help="classes to name")
    parser.add_argument("--scores", choices=SCORES, help="what the model gives, where its file does not say")
    parser.add_argument("--csv", metavar="FILE", help="write file, rank, class and probability as a table")
    parser.add_argument("--json", metavar="FILE", help="write the same as JSON")
    parser.add_argument("--sheet", type=command_line.picture, metavar="FILE", help="write a contact sheet")
    flags.add_flags(parser, Preprocessing(), show_defaults=False)
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
