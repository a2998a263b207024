"""The command `convmixer-tflite`: a trained ConvMixer as a `.tflite` file."""

import re

from convmixer_keras.convert.tflite import MODES, export
from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import InputError

DESCRIPTION = """Writes a trained ConvMixer as a .tflite file for phones and other small machines.

  convmixer-tflite model.keras out.tflite                                    float32
  convmixer-tflite model.keras out.tflite --mode dynamic                     a third of the size; for PCs
  convmixer-tflite model.keras out.tflite --mode int8 --calibrate photos/    integers throughout; for phones

The file is then run against the Keras model, on the images of --calibrate or on random ones."""


def main(argv=None):
    arguments = parse(argv)
    command_line.need_tensorflow()
    command_line.quiet_start()
    from convmixer_keras.models.saving import load_class_names, load_model

    model = load_model(arguments.model)
    labels = load_class_names(arguments.model)
    if arguments.labels is not None:
        labels = _read_labels(arguments.labels)
    if arguments.size is None and None in model.inputs[0].shape[1:]:
        raise InputError(
            f"{arguments.model} leaves the size of its images open: say --size H W, such as --size 224 224"
        )
    mean, std = _in_pixels("--mean", arguments.mean, model), _in_pixels("--std", arguments.std, model)
    try:
        report = export(
            model,
            arguments.output,
            arguments.mode,
            calibration=arguments.calibrate,
            labels=labels,
            input_mean=mean,
            input_std=std,
            size=arguments.size,
            whole_kernels=arguments.whole_kernels,
            author=arguments.author,
            license=arguments.license,
            verbose=True,
        )
    except InputError as error:
        raise InputError(_with_flags(str(error))) from None
    print(describe(report, arguments.output, arguments.mode, arguments.calibrate))
    return command_line.DONE


def describe(report, path, mode, source):
    if report.takes_pixels:
        takes = "raw pixels 0..255, which it normalises itself"
    else:
        takes = (
            "normalised channels, as the model does: its input is left as it is "
            "(--mean and --std would add the normalisation)"
        )
    images = "random images" if source is None else f"images of {source}"
    same = "" if report.same_top1 is None else f", same top-1 on {report.same_top1} of {report.images}"
    return (
        f"{path}: {mode}, {report.size / 1e6:.2f} MB, image -> {report.output_name}\n"
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
    unit = "of each channel, 0..1, for a model that takes normalised channels"
    parser.add_argument("--mean", type=float, nargs="+", metavar="X", help=f"mean {unit}")
    parser.add_argument("--std", type=float, nargs="+", metavar="X", help=f"deviation {unit}")
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
    return parser.parse_args(argv)


def _in_pixels(name, values, model):
    """Returns a flag's values, one for each channel or one for all, in units of 0..255."""
    if values is None:
        return None
    if not all(0 <= value <= 1 for value in values):
        raise InputError(f"{name} is in units of 0..1, got {' '.join(map(str, values))}")
    if name == "--std" and not min(values):
        raise InputError("--std must be over 0")
    channels = model.inputs[0].shape[-1]
    if len(values) not in (1, channels):
        raise InputError(f"{name} takes 1 number or {channels}, one for each channel, got {len(values)}")
    return [255 * value for value in (values * channels if len(values) == 1 else values)]


def _with_flags(message):
    """Names the flags where a message of `export` names its arguments."""
    flags = {"input_mean": "--mean", "input_std": "--std", "calibration": "--calibrate", "labels": "--labels"}
    for argument, flag in flags.items():
        message = re.sub(rf"\b{argument}\b(?! are| images)", flag, message)
    return re.sub("^size must", "--size must", message)


def _read_labels(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as text: {error}") from None


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
