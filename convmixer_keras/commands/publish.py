"""Publishes a trained model: its files in every format and a model card, in a folder or on Hugging Face.

  convmixer-publish runs/photos/model.keras published/
  convmixer-publish runs/photos/model.keras hf://USER/REPO

The card states the data, recipe and accuracy that the training run recorded. To upload, set HF_TOKEN or run
`hf auth login`.
"""

import tempfile

from convmixer_keras.utils import command_line, hub, streams
from convmixer_keras.utils.text import one_line


def main(argv=None):
    arguments = _parser().parse_args(argv)
    command_line.need_tensorflow()
    streams.quiet_start()
    if not hub.is_name(arguments.destination):
        _write(arguments, arguments.destination)
        print(f"wrote {arguments.destination}")
        return command_line.DONE
    from convmixer_keras.commands import publishing

    hub.parse(arguments.destination)
    with tempfile.TemporaryDirectory() as folder:
        _write(arguments, folder, name=arguments.destination)
        address = publishing.upload(folder, arguments.destination, arguments.private)
    print(f'uploaded: {address}\nload it: convmixer_keras.inference.load("{arguments.destination}")')
    return command_line.DONE


def _write(arguments, folder, **options):
    from convmixer_keras.commands import publishing

    page = publishing.write(arguments.model, folder, calibration=arguments.calibrate, verbose=True, **options)
    for name in page.files:
        print(f"  {name}")
    for name, reason in page.left_out.items():
        print(f"  left out {name}: {one_line(reason)}")


def _parser():
    parser = command_line.parser(__doc__, prog="convmixer-publish")
    parser.add_argument("model", metavar="MODEL.keras", help="the model, in its run's folder if it has one")
    parser.add_argument("destination", metavar="DESTINATION", help="a folder, or hf://USER/REPO")
    parser.add_argument(
        "--calibrate",
        metavar="SOURCE",
        help="images for int8 and for comparing the .tflite files (default: the run's training data)",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    return parser


def command():
    command_line.run(main)


if __name__ == "__main__":
    command()
