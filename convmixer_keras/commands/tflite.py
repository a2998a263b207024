"""Writes a trained ConvMixer as a .tflite file for phones and other small machines.

  convmixer-tflite model.keras model.tflite                                    float32
  convmixer-tflite model.keras model.tflite --mode dynamic                     a third of the size; for PCs
  convmixer-tflite model.keras model.tflite --mode int8 --calibrate photos/    integers throughout; for phones

The file is then run against the Keras model, on the images of --calibrate or on random ones. --snippet writes
the source code that shows it photographs in an app or on a page, beside it.
"""

import dataclasses
import os

from convmixer_keras.utils import command_line, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import check_output, written_whole
from convmixer_keras.utils.text import one_line


def main(argv=None):
    from convmixer_keras.commands import flags, next_commands, snippet

    arguments = _parser().parse_args(argv)
    command_line.need_tensorflow()
    inputs = (arguments.model, arguments.labels or "")
    check_output(arguments.output, (".tflite",), inputs)
    source_code = None
    if arguments.snippet is not None:
        ending = snippet.ENDINGS[arguments.snippet]
        source_code = os.path.splitext(arguments.output)[0] + ending
        check_output(source_code, ending, inputs)
        snippet.check_name(os.path.basename(arguments.output))
    streams.quiet_start()
    from convmixer_keras.convert.export import runtime, source, tflite

    labels = flags.class_names(arguments.labels)
    model, labels, preprocessing = source.opened(arguments.model, labels, size=arguments.size)
    preprocessing = _changed(preprocessing, model, arguments)
    if source_code is not None:
        snippet.check_fits(model, preprocessing, arguments.batch)
    with streams.silence():
        report = tflite.export(
            model,
            arguments.output,
            arguments.mode,
            calibration=arguments.calibration,
            labels=labels,
            preprocessing=preprocessing,
            batch=arguments.batch,
            whole_kernels=arguments.whole_kernels,
            author=arguments.author,
            license=arguments.license,
            logits=arguments.logits,
            verbose=True,
        )
        known = runtime.Classifier(arguments.output)
    print(_text(report, known, arguments))
    if source_code is not None:
        text = snippet.snippet(
            arguments.snippet, os.path.basename(arguments.output), known.preprocessing, known.classes
        )
        with written_whole(source_code) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        print(f"wrote {one_line(source_code)}, which shows it photographs in MediaPipe")
    if known.classes is not None and known.takes_pixels:
        predict = ["convmixer-predict", "PHOTO", "--model", arguments.output]
        page = next_commands.page(arguments.output) if known.batch == 1 else []
        print(f"show it photographs\n{next_commands.lines([predict, *page])}")
    return command_line.DONE


def _changed(record, model, arguments):
    """Returns what the model file and the flags say, or else a default for a model that takes pixels."""
    from convmixer_keras.commands import flags
    from convmixer_keras.images import preprocessing
    from convmixer_keras.models import inputs

    changes = flags.given(arguments, preprocessing.Preprocessing)
    if record is not None:
        return dataclasses.replace(record, **changes)
    *size, channels = model.inputs[0].shape[1:]
    if changes and None not in size:
        record = preprocessing.Preprocessing(size, channels, **changes)
        if record.mean is None and inputs.takes_pixels(model) is False:
            raise InputError(
                f"{arguments.model} takes normalised channels, and does not say which: give --mean and --std"
            )
        return record
    if channels not in (1, 3) or None in size or inputs.takes_pixels(model) is False:
        return None
    return preprocessing.assumed(arguments.model, size, channels)


def _text(report, known, arguments):
    if report.takes_pixels:
        takes = "raw pixels 0..255"
    else:
        takes = (
            "normalised channels, as the model does: its input is left as it is "
            "(--mean and --std would add the normalisation)"
        )
    images = (
        "random images" if arguments.calibration is None else f"images of {one_line(arguments.calibration)}"
    )
    return (
        f"{one_line(arguments.output)}: {arguments.mode}, {report.size / 1e6:.2f} MB, "
        f"image -> {report.output}\n"
        f"  takes {takes}\n"
        f"  photographs: {one_line(known.description)}\n"
        f"  against the Keras model on {report.agreement.images} {images}: {report.agreement}"
    )


def _parser():
    from convmixer_keras.commands import flags, snippet
    from convmixer_keras.convert.export.quantization import MODES
    from convmixer_keras.images.preprocessing import Preprocessing

    parser = command_line.parser(__doc__, prog="convmixer-tflite")
    parser.add_argument("model", metavar="MODEL.keras", help="the model to export")
    parser.add_argument("output", metavar="OUT.tflite", help="the file to write")
    parser.add_argument("--mode", choices=MODES, default="float32", help="weights and arithmetic")
    parser.add_argument(
        "--calibrate",
        dest="calibration",
        metavar="SOURCE",
        help="images for int8 and for the check: a folder, digits, or a tensorflow-datasets name",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="class names, one in a line, or imagenet (default: the model's own)",
    )
    parser.add_argument(
        "--logits", action="store_true", help="leave the scores as they are before a softmax or sigmoid"
    )
    flags.add_image_size(parser, "side of the images (default: the model's own, or the record's)")
    parser.add_argument(
        "--batch",
        type=command_line.positive,
        default=1,
        metavar="N",
        help="images that the file takes at a time; MediaPipe needs 1",
    )
    parser.add_argument(
        "--whole-kernels",
        action="store_true",
        help="leave large kernels whole, for a GPU, an NPU or an old runtime; slow in today's on a CPU",
    )
    parser.add_argument(
        "--snippet",
        choices=snippet.ENDINGS,
        help="write source code for Android, iOS or a page, with the file's numbers, beside OUT.tflite",
    )
    parser.add_argument("--author", metavar="NAME", help="of the model, for the file's metadata")
    parser.add_argument("--license", metavar="TEXT", help="of the model, for the file's metadata")
    flags.add_flags(parser, Preprocessing(), show_defaults=False)
    return parser


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
