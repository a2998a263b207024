"""Writes a trained ConvMixer as an .onnx file, and checks it against Keras in ONNX Runtime.

  convmixer-onnx model.keras out.onnx
  convmixer-onnx model.keras out.onnx --logits

The file takes what the model takes, float32 (batch, height, width, channels), for any number of images at a
time. Class names and preprocessing travel in its metadata.
"""

from convmixer_keras.utils import command_line, extras, streams


def main(argv=None):
    arguments = _parser().parse_args(argv)
    extras.require("onnx")
    streams.quiet_start()
    from convmixer_keras.convert.export import onnx
    from convmixer_keras.images import preprocessing
    from convmixer_keras.models.saving import load_class_names, load_model

    report = onnx.export(
        load_model(arguments.model),
        arguments.output,
        class_names=load_class_names(arguments.model),
        preprocessing=preprocessing.of(arguments.model),
        logits=arguments.logits,
    )
    if report.difference is None:
        print("not verified: onnxruntime is not installed")
    else:
        print(f"verified in ONNX Runtime on 2 random images: largest difference {report.difference:.2e}")
    print(f"wrote {arguments.output}: image -> {report.output}")
    return command_line.DONE


def _parser():
    parser = command_line.parser(__doc__, prog="convmixer-onnx")
    parser.add_argument("model", metavar="MODEL.keras", help="the model to export")
    parser.add_argument("output", metavar="OUT.onnx", help="the file to write")
    parser.add_argument("--logits", action="store_true", help="leave the softmax out")
    return parser


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
