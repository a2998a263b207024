"""Writes a trained ConvMixer as an .onnx file, and checks it against Keras in ONNX Runtime.

  convmixer-onnx model.keras out.onnx
  convmixer-onnx model.keras out.onnx --opset 17          for runtimes that do not know 20
  convmixer-onnx model.keras out.onnx --image-size 288    for other images than those of training

The file takes what the model takes, float32 (batch, height, width, channels), for any number of images at a
time. Class names and preprocessing travel in its metadata.
"""

from convmixer_keras.utils import command_line, extras, streams
from convmixer_keras.utils.files import check_output
from convmixer_keras.utils.text import one_line


def main(argv=None):
    arguments = _parser().parse_args(argv)
    extras.require("onnx")
    check_output(arguments.output, (".onnx",), (arguments.model,))
    streams.quiet_start()
    from convmixer_keras.convert.export import onnx

    report = onnx.export(
        arguments.model,
        arguments.output,
        size=arguments.size,
        logits=arguments.logits,
        opset=arguments.opset,
    )
    if report.agreement is None:
        print("not verified: onnxruntime is not installed")
    else:
        word = "verified" if report.agreement.varies else "not verified"
        print(f"{word} in ONNX Runtime on {report.agreement.images} random images: {report.agreement}")
    print(f"wrote {one_line(arguments.output)}: image -> {report.output}")
    return command_line.DONE


def _parser():
    from convmixer_keras.commands import flags

    parser = command_line.parser(__doc__, prog="convmixer-onnx")
    parser.add_argument("model", metavar="MODEL.keras", help="the model to export")
    parser.add_argument("output", metavar="OUT.onnx", help="the file to write")
    parser.add_argument(
        "--logits", action="store_true", help="leave the scores as they are before a softmax or sigmoid"
    )
    parser.add_argument(
        "--opset",
        type=command_line.positive,
        default=20,
        metavar="N",
        help="version of ONNX's operations, 13 to 20; a lower one is for older runtimes",
    )
    flags.add_image_size(parser, "side of the images (default: the model's own)")
    return parser


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
