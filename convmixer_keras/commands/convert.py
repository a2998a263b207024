"""Converts another program's ConvMixer weights into a Keras model, or with --to a Keras model into PyTorch's.

  convmixer-convert convmixer_768_32.safetensors model.keras
  convmixer-convert checkpoint.pth.tar model.weights.h5 --ema --activation gelu
  convmixer-convert checkpoint.pth model.keras --activation gelu --reference reference.npz
  convmixer-convert hf://timm/convmixer_768_32.in1k model.keras
  convmixer-convert model.keras model.safetensors --to timm

Of a Keras file the graph is read. Tensors are recognised by their structure, whatever their names.
PyTorch is only needed for pickled files and for the comparison of the two networks' outputs.
"""

import argparse
import dataclasses

from convmixer_keras.commands import flags
from convmixer_keras.convert import agreement
from convmixer_keras.convert.weights import activations, checkpoint_file, timm_config, to_keras, to_torch
from convmixer_keras.convert.weights.recognition import OWN_NAMES
from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.models.saving import load_model, save_model, save_weights
from convmixer_keras.utils import command_line, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import check_output, written_whole
from convmixer_keras.utils.text import one_line

_WRITTEN = (".keras", ".weights.h5")
# Flags that only make sense for a Keras model of another program's weights.
_TO_KERAS_ONLY = ("activation", "variant", "ema", "prefix", "ignore", "classes", "epsilon", "no_top")
_TO_KERAS_ONLY += ("include_preprocessing", "image_size", "reference", "labels")


def command():
    command_line.run(main)


def main(argv=None):
    """Runs the command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    _check_flags(arguments)
    streams.quiet_start()
    if arguments.images is not None:
        from convmixer_keras.convert.weights import verification

        verification.image_paths(arguments.images)
    if arguments.to is None:
        _to_keras(arguments)
    else:
        write_torch(arguments.input, arguments.output, arguments.to, arguments.verify, arguments.images)
    print(f"wrote {one_line(arguments.output)}")
    return command_line.DONE


def _parser():
    parser = command_line.parser(__doc__, prog="convmixer-convert")
    parser.add_argument(
        "input", metavar="INPUT", help="another program's weights, or with --to a .keras model"
    )
    parser.add_argument(
        "output", metavar="OUTPUT", help="OUT.keras or OUT.weights.h5; with --to OUT.safetensors or OUT.pth"
    )
    parser.add_argument(
        "--to",
        choices=to_torch.LAYOUTS,
        help="write a PyTorch state dict, with timm's names or those of the authors' nn.Sequential",
    )
    parser.add_argument(
        "--activation",
        choices=activations.RANGES,
        help="the network's activation, which tensors do not record; not needed for published variants",
    )
    parser.add_argument(
        "--variant",
        choices=[preset.name for preset in presets.PRESETS],
        help="take the file for this variant, and refuse it if its sizes are others",
    )
    parser.add_argument(
        "--ema", action="store_true", help="take the moving average of the weights, where there is one"
    )
    parser.add_argument(
        "--prefix", metavar="P", help="take the tensors whose names begin with P: one of several networks"
    )
    parser.add_argument(
        "--ignore",
        nargs="+",
        metavar="NAME",
        help="leave these tensors or modules out, which are not the network's; patterns such as 'loss.*' too",
    )
    parser.add_argument(
        "--classes",
        type=command_line.positive,
        metavar="N",
        help="keep the body and start a new, random classifier with N classes",
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        metavar="X",
        help="of the batch normalisations in a Keras file that does not say it",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="class names to record in the .keras file: a text file with one in a line, or imagenet",
    )
    parser.add_argument("--no-top", dest="include_top", action="store_false", help="leave the classifier out")
    parser.add_argument(
        "--include-preprocessing",
        action="store_true",
        help="let the model take raw pixels 0..255 and normalise them, with the constants of the published "
        "variant or --mean and --std",
    )
    parser.add_argument(
        "--image-size",
        type=command_line.positive,
        metavar="N",
        help="side of the model's images; otherwise left open",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE.npz",
        help="compare with what your own program gave: arrays 'inputs' and 'logits'",
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="run the file's own Keras graph, or the network in PyTorch, and fail where an output differs by "
        f"over {agreement.TOLERANCE:g} of the largest; the default where that is possible",
    )
    parser.add_argument("--images", metavar="DIR", help="verify on the images in this folder as well")
    flags.add_flags(parser, Preprocessing(), show_defaults=False)
    return parser


def _check_flags(arguments):
    """Raises InputError for flags that do not go together, before anything is read."""
    to_keras = arguments.to is None
    inverse = {"no_top": not arguments.include_top, "no_verify": arguments.verify is False}
    given = [name for name, value in (vars(arguments) | inverse).items() if value not in (None, False)]
    if to_keras and arguments.output.endswith(checkpoint_file.WRITTEN):
        raise InputError(
            f"the output's name must end in {' or '.join(_WRITTEN)}, got {arguments.output}; for a PyTorch "
            "file say --to timm or --to official"
        )
    check_output(arguments.output, _WRITTEN if to_keras else checkpoint_file.WRITTEN, (arguments.input,))
    if not to_keras:
        if not arguments.input.endswith(".keras"):
            raise InputError(f"with --to the input's name must end in .keras, got {arguments.input}")
        for name in given:
            if name in _TO_KERAS_ONLY or name in flags.given(arguments, Preprocessing):
                raise InputError(f"--{name.replace('_', '-')} is not allowed with --to")
        checkpoint_file.check_writable_name(arguments.output)
    exclusive = (("classes", "no_top"), ("reference", "classes"), ("reference", "no_top"))
    exclusive += (("images", "no_verify"), ("reference", "no_verify"), ("labels", "no_top"))
    for one, other in exclusive:
        if one in given and other in given:
            raise InputError(f"--{one} is not allowed with --{other.replace('_', '-')}")
    if to_keras and not arguments.output.endswith(".keras"):
        for name in ("labels", *flags.given(arguments, Preprocessing)):
            if name in given:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(
                    f"what {flag} says is recorded in a .keras file, and not in {arguments.output}"
                )


def _to_keras(arguments):
    from convmixer_keras.convert.weights import verification

    keep_head = arguments.include_top and arguments.classes is None
    names = flags.class_names(arguments.labels)
    with written_whole(arguments.output) as temporary:
        checkpoint = to_keras.open_checkpoint(
            arguments.input,
            activation=arguments.activation,
            variant=arguments.variant,
            ema=arguments.ema,
            include_top=keep_head,
            epsilon=arguments.epsilon,
            prefix=arguments.prefix or "",
            ignore=arguments.ignore or (),
        )
        _describe(checkpoint, arguments)
        classes = arguments.classes or checkpoint.sizes.classes
        if names is None:
            names = _published_names(checkpoint.preset, classes) if keep_head else None
        elif len(names) != classes:
            raise InputError(f"--labels must be {classes}, one for each class, got {len(names)}")
        preprocessing = _preprocessing(checkpoint, arguments)
        normalization = None
        if arguments.include_preprocessing and checkpoint.input_statistics is None:
            normalization = preprocessing.mean, preprocessing.std
            preprocessing = dataclasses.replace(preprocessing, mean=None, std=None)
        # Of the checkpoint's own network and the Keras model, no more than two are in memory at once.
        expected = _expected(checkpoint, arguments)
        checkpoint = checkpoint._replace(original=None)
        statistics, features = checkpoint.input_statistics, checkpoint.sizes.classes is None
        if normalization is not None:
            statistics = tuple([255 * value for value in values] for values in normalization)
        model = to_keras.build(checkpoint, normalization)
        verification.compare(model, expected, statistics, features)
        if not keep_head or arguments.image_size is not None:
            pooling = "avg" if arguments.include_top else None
            model = to_keras.build(
                checkpoint, normalization, pooling, arguments.classes, arguments.image_size
            )
        if arguments.output.endswith(".keras"):
            save_model(model, temporary, names, preprocessing)
        else:
            save_weights(model, temporary)


def _expected(checkpoint, arguments):
    """Returns what the converted model has to give, as `verification.expected`; nothing with --no-verify."""
    from convmixer_keras.convert.weights import verification

    if arguments.verify is False:
        return []
    return verification.expected(
        checkpoint,
        folder=arguments.images,
        reference_file=arguments.reference,
        required=bool(arguments.verify or arguments.images),
    )


def _describe(checkpoint, arguments):
    print(f"{one_line(arguments.input)}: {one_line(checkpoint)}")
    if checkpoint.layout == OWN_NAMES:
        print("recognised by its structure; the layers are:")
        print("\n".join(f"  {one_line(line)}" for line in checkpoint.modules()))
    if checkpoint.input_statistics is not None:
        print("the model takes what the file's network takes, and normalises it as that does")
    for what in checkpoint.left_out:
        print(f"left out: {one_line(what)}")
    if arguments.classes is not None:
        print(f"the classifier of {arguments.classes} classes is new, with random weights")
    patch_size = checkpoint.sizes.patch_size
    if arguments.image_size is not None and arguments.image_size < patch_size:
        raise InputError(
            f"--image-size must be at least the patch size, {patch_size}, got {arguments.image_size}"
        )


def _preprocessing(checkpoint, arguments):
    """Returns what the checkpoint or its published variant states, and the flags; None where neither does."""
    changes = flags.given(arguments, Preprocessing)
    record, channels = checkpoint.preprocessing(arguments.image_size), checkpoint.sizes.channels
    if checkpoint.input_statistics is not None and ("mean" in changes or "std" in changes):
        raise InputError(f"the network of {arguments.input} normalises by itself: leave out --mean and --std")
    if record is not None:
        return dataclasses.replace(record, **changes)
    if changes:
        if checkpoint.input_statistics is None and not {"mean", "std"} & changes.keys():
            given = ", ".join(f"--{name.replace('_', '-')}" for name in changes)
            raise InputError(
                f"nothing says how the images of {arguments.input} are normalised: give --mean and --std "
                f"with {given}"
            )
        if arguments.image_size is None:
            raise InputError(f"nothing says how large the images of {arguments.input} are: give --image-size")
        return Preprocessing(arguments.image_size, channels, **changes)
    if arguments.include_preprocessing and checkpoint.input_statistics is None:
        raise InputError(
            f"nothing says how the images of {arguments.input} are normalised: give --mean and --std with "
            "--include-preprocessing"
        )
    return None


def _published_names(preset, classes):
    """Returns ImageNet's names for a classifier of a published ImageNet variant, or None."""
    names = flags.class_names("imagenet")
    return names if preset and preset.classes == len(names) == classes else None


def write_torch(path, output, layout, verify=None, images=None):
    """Writes a Keras ConvMixer's weights as a PyTorch file; the arguments are those of the flags.

    Returns whether they were verified.
    """
    from convmixer_keras.convert.weights import keras_graph, verification

    model, expected = load_model(path), []
    state = to_torch.to_state_dict(model, layout)
    checkpoint = keras_graph.read(model, path)
    print(f"{one_line(path)}: {checkpoint.sizes}, {checkpoint.activation}")
    if checkpoint.input_statistics is not None:
        print("the input's normalisation is left out: the PyTorch weights take channels that are normalised")
    for what in checkpoint.left_out:
        print(f"left out: {one_line(what)}")
    if verify is not False:
        required = bool(verify or images)
        expected = verification.expected(checkpoint, folder=images, in_torch=True, required=required)
        verification.compare(model, expected, checkpoint.input_statistics)
    in_units = [[value / 255 for value in values] for values in checkpoint.input_statistics or ()]
    metadata = timm_config.to_metadata(
        preprocessing_module.of(path), checkpoint.sizes, checkpoint.activation, in_units
    )
    checkpoint_file.write_checkpoint(state, output, metadata)
    return bool(expected)


if __name__ == "__main__":
    command()
