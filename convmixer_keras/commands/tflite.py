"""The command `convmixer-tflite`: a trained ConvMixer as a `.tflite` file."""

import dataclasses
import re

from convmixer_keras.commands import flags
from convmixer_keras.convert.export.tflite import MODES, export
from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils import command_line, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import check_output, read_text
from convmixer_keras.utils.text import one_line

DESCRIPTION = """Writes a trained ConvMixer as a .tflite file for phones and other small machines.

  convmixer-tflite model.keras model.tflite                                    float32
  convmixer-tflite model.keras model.tflite --mode dynamic                     a third of the size; for PCs
  convmixer-tflite model.keras model.tflite --mode int8 --calibrate photos/    integers throughout; for phones

The file is then run against the Keras model, on the images of --calibrate or on random ones."""


def main(argv=None):
    arguments = parse(argv)
    command_line.need_tensorflow()
    streams.quiet_start()
    from convmixer_keras.models.saving import load_class_names, load_model

    check_output(arguments.output, (".tflite",), (arguments.model, arguments.labels or ""))
    model = load_model(arguments.model)
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise InputError(f"{arguments.model} must take images, and takes {model.input_shape}")
    labels = load_class_names(arguments.model)
    if arguments.labels is not None:
        labels = read_text(arguments.labels).splitlines()
    preprocessing = preprocessing_module.of(arguments.model)
    if arguments.size is None and None in model.inputs[0].shape[1:]:
        if preprocessing is None:
            raise InputError(
                f"{arguments.model} leaves the size of its images open: say --size H W, such as --size 224 "
                "224"
            )
        arguments.size = preprocessing.size
    try:
        report = export(
            model,
            arguments.output,
            arguments.mode,
            calibration=arguments.calibrate,
            labels=labels,
            size=arguments.size,
            whole_kernels=arguments.whole_kernels,
            author=arguments.author,
            license=arguments.license,
            preprocessing=_of_file(preprocessing, model, arguments),
            logits=arguments.logits,
            verbose=True,
        )
    except InputError as error:
        raise InputError(_with_flags(str(error))) from None
    print(report_text(report, arguments.output, arguments.mode, arguments.calibrate))
    return command_line.DONE


def _of_file(preprocessing, model, arguments):
    """Returns what the model file and the flags say, or else a default for a model that takes images."""
    from convmixer_keras.models.inputs import takes_pixels  # Imports Keras.

    changes = flags.given(arguments, Preprocessing)
    if preprocessing is None:
        height, width, channels = model.inputs[0].shape[1:]
        if channels not in (1, 3):
            return None
        size = arguments.size or (height, width)
        if changes:
            return preprocessing_module.Preprocessing(size, channels, **changes)
        if not takes_pixels(model):
            return None
        return preprocessing_module.assumed(arguments.model, size, channels)
    return dataclasses.replace(preprocessing, **changes)


def report_text(report, path, mode, source):
    if report.takes_pixels:
        takes = "raw pixels 0..255, which it normalises itself"
    else:
        takes = (
            "normalised channels, as the model does: its input is left as it is "
            "(--mean and --std would add the normalisation)"
        )
    images = "random images" if source is None else f"images of {one_line(source)}"
    same = "" if report.same_top1 is None else f", same top-1 on {report.same_top1} of {report.images}"
    return (
        f"{one_line(path)}: {mode}, {report.size / 1e6:.2f} MB, image -> {report.output_name}\n"
        f"  takes {takes}\n"
        f"  against the Keras model on {report.images} {images}: largest difference "
        f"{report.largest_difference:.3g} (largest output {report.largest_output:.3g}){same}"
    )


def parse(argv):
    parser = command_line.parser(DESCRIPTION, prog="convmixer-tflite")
    parser.add_argument("model", metavar="MODEL.keras", help="the model to export")
    parser.add_argument("output", metavar="OUT.tflite", help="the file to write")
    parser.add_argument("--mode", choices=MODES, default="float32", help="weights and arithmetic")
    parser.add_argument(
        "--calibrate",
        metavar="SOURCE",
        help="images for int8 and for the check: a folder, digits, or a tensorflow-datasets name",
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="class names, one in a line (default: the model's own)"
    )
    parser.add_argument(
        "--logits", action="store_true", help="leave the classifier's logits, and add no softmax"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the images, where the model leaves it free"
    )
    parser.add_argument(
        "--whole-kernels",
        action="store_true",
        help="leave large kernels whole, for a GPU, an NPU or an old runtime; slow in today's on a CPU",
    )
    parser.add_argument("--author", metavar="NAME", help="of the model, for the file's metadata")
    parser.add_argument("--license", metavar="TEXT", help="of the model, for the file's metadata")
    flags.add_flags(parser, Preprocessing(), show_defaults=False)
    return parser.parse_args(argv)


def _with_flags(message):
    """Names the flags where a message of `export` or of `Preprocessing` names its arguments."""
    flags = {"input_mean": "--mean", "input_std": "--std", "calibration": "--calibrate", "labels": "--labels"}
    for argument, flag in flags.items():
        message = re.sub(rf"\b{argument}\b(?! are| images)", flag, message)
    message = re.sub("^mean and std must", "--mean and --std must", message)
    return re.sub("^(size|mean|std|crop_pct) must", lambda match: f"--{match[0]}", message).replace(
        "--crop_pct", "--crop-pct"
    )


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
