"""Converts another program's ConvMixer weights into a Keras model, or with --to a Keras model into PyTorch's.

  convmixer-convert convmixer_768_32.safetensors model.keras
  convmixer-convert checkpoint.pth.tar model.weights.h5 --ema --activation gelu
  convmixer-convert hf://timm/convmixer_768_32.in1k model.keras
  convmixer-convert kimm.keras model.keras
  convmixer-convert model.keras model.safetensors --to timm

The network is recognised by the names and shapes of its tensors: those of the authors, timm, mmpretrain,
labml and the 280-character version by name, any other by structure. Weights files of keras-cv, kimm, kmodels
and other Keras programs are read, too. PyTorch is only needed for pickled files and for the comparison of the
two networks' outputs.
"""

import argparse
import dataclasses

import numpy as np

from convmixer_keras.commands.preprocessing_flags import add_preprocessing_flags, preprocessing_changes
from convmixer_keras.commands.verification import compare, torch_outputs
from convmixer_keras.convert.agreement import TOLERANCE
from convmixer_keras.convert.weights import checkpoint_file, layouts, timm_config, to_keras, to_torch
from convmixer_keras.convert.weights.recognition import BY_STRUCTURE
from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.models.saving import load_model, save_model, save_weights
from convmixer_keras.utils import command_line, extras, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import check_output, written_whole
from convmixer_keras.utils.text import one_line


def command():
    command_line.run(main)


def main(argv=None):
    """Runs the command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    _refuse_meaningless(arguments)
    streams.quiet_start()
    verify = _whether_to_verify(arguments)
    if arguments.to is None:
        _to_keras(arguments, verify)
    else:
        _to_torch(arguments, verify)
    print(f"wrote {arguments.output}")
    return command_line.DONE


def _parser():
    parser = command_line.parser(__doc__, prog="convmixer-convert")
    parser.add_argument("input", metavar="INPUT", help="a PyTorch checkpoint, or with --to a .keras model")
    parser.add_argument(
        "output", metavar="OUTPUT", help="OUT.keras or OUT.weights.h5; with --to OUT.safetensors or OUT.pth"
    )
    parser.add_argument(
        "--to",
        choices=to_torch.TARGETS,
        help="write a PyTorch state dict, with timm's names or those of the authors' nn.Sequential",
    )
    parser.add_argument(
        "--activation",
        choices=to_keras.ACTIVATIONS,
        help="the network's activation, which checkpoints do not record; not needed for published variants",
    )
    parser.add_argument(
        "--variant",
        choices=[preset.name for preset in presets.PRESETS],
        help="refuse a checkpoint whose sizes are not this variant's",
    )
    parser.add_argument(
        "--ema", action="store_true", help="take the moving average of the weights, where there is one"
    )
    parser.add_argument(
        "--classes",
        type=int,
        metavar="N",
        help="keep the body and start a new, random classifier with N classes",
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        metavar="X",
        help="of the batch normalisations in a Keras file that does not say it",
    )
    parser.add_argument("--no-top", action="store_true", help="leave the classifier out")
    parser.add_argument(
        "--include-preprocessing",
        action="store_true",
        help="let the model take raw pixels 0..255 and normalise them, with the constants of the published "
        "variant or --mean and --std",
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side of the model's images; otherwise left open"
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help=f"run the network in PyTorch too and fail where an output differs by over {TOLERANCE:g} of the "
        "largest; the default where PyTorch is installed",
    )
    parser.add_argument("--images", metavar="DIR", help="verify on the images in this folder as well")
    add_preprocessing_flags(parser)
    return parser


def _refuse_meaningless(arguments):
    """Raises InputError for flags that do not go together, before anything is read."""
    endings = (".keras", ".weights.h5") if arguments.to is None else checkpoint_file.WRITTEN
    if not arguments.output.endswith(endings):
        hint = ""
        if arguments.to is None and arguments.output.endswith(checkpoint_file.WRITTEN):
            hint = "; for a PyTorch file say --to timm or --to official"
        raise InputError(
            f"the output's name must end in {' or '.join(endings)}, got {arguments.output}{hint}"
        )
    check_output(arguments.output, endings, (arguments.input,))
    if arguments.to is not None:
        if not arguments.input.endswith(".keras"):
            raise InputError(f"with --to the input's name must end in .keras, got {arguments.input}")
        to_keras_only = (
            "activation",
            "variant",
            "ema",
            "classes",
            "epsilon",
            "no_top",
            "include_preprocessing",
        )
        for name in preprocessing_changes(arguments):
            raise InputError(f"--{name.replace('_', '-')} is not allowed with --to")
        for name in (*to_keras_only, "image_size"):
            if getattr(arguments, name) not in (None, False):
                raise InputError(f"--{name.replace('_', '-')} is not allowed with --to")
    if arguments.classes is not None and arguments.no_top:
        raise InputError("--classes is not allowed with --no-top")
    if arguments.images is not None and arguments.verify is False:
        raise InputError("--images is not allowed with --no-verify")
    for name in ("classes", "image_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be a positive integer, got {value}")


def _whether_to_verify(arguments):
    if arguments.images is not None:
        from convmixer_keras.convert.weights.against_torch import image_paths

        image_paths(arguments.images)
    if arguments.verify is False:
        return False
    if extras.is_installed("torch"):
        return True
    if arguments.verify or arguments.images is not None:
        extras.require("torch")
    print("not verified: PyTorch is not installed")
    return False


def _to_keras(arguments, verify):
    keep_head = not arguments.no_top and arguments.classes is None
    with written_whole(arguments.output) as temporary:
        checkpoint = to_keras.open_checkpoint(
            arguments.input,
            activation=arguments.activation,
            variant=arguments.variant,
            ema=arguments.ema,
            include_top=keep_head,
            epsilon=arguments.epsilon,
        )
        print(f"{one_line(arguments.input)}: {one_line(checkpoint)}")
        if checkpoint.recognised.layout == BY_STRUCTURE:
            print("recognised by shape; the layers are:")
            print("\n".join(f"  {one_line(line)}" for line in checkpoint.recognised.modules()))
        patch_size = checkpoint.recognised.sizes.patch_size
        if arguments.image_size is not None and arguments.image_size < patch_size:
            raise InputError(
                f"--image-size must be at least the patch size, {patch_size}, got {arguments.image_size}"
            )
        preprocessing = _preprocessing(checkpoint, arguments)
        normalization = None
        if arguments.include_preprocessing:
            normalization = preprocessing.mean, preprocessing.std
            preprocessing = dataclasses.replace(preprocessing, mean=None, std=None)
        expected = _expected_outputs(checkpoint, arguments, normalization) if verify else []
        # Of the checkpoint, its PyTorch model and the Keras model, no more than two are in memory at once.
        model = to_keras.build(
            checkpoint,
            not arguments.no_top,
            arguments.classes,
            normalization,
            arguments.image_size,
        )
        preset = checkpoint.preset
        del checkpoint
        if arguments.classes is not None:
            print(f"the classifier of {arguments.classes} classes is new, with random weights")
        compare(model, expected, features=not keep_head)
        if arguments.output.endswith(".keras"):
            save_model(model, temporary, _class_names(preset, model) if keep_head else None, preprocessing)
        else:
            save_weights(model, temporary)


def _preprocessing(checkpoint, arguments):
    """Returns what the checkpoint or its published variant states, and the flags; None where neither does."""
    changes = preprocessing_changes(arguments)
    record, channels = checkpoint.preprocessing(arguments.image_size), checkpoint.recognised.sizes.channels
    if record is not None:
        return dataclasses.replace(record, **changes)
    if "mean" in changes and channels in (1, 3):
        if arguments.image_size is None:
            raise InputError(f"nothing says how large the images of {arguments.input} are: give --image-size")
        return Preprocessing(arguments.image_size, channels, **changes)
    if arguments.include_preprocessing:
        raise InputError(
            f"nothing says how the images of {arguments.input} are normalised: give --mean and --std with "
            "--include-preprocessing"
        )
    return None


def _class_names(preset, model):
    """Returns ImageNet's names for a classifier of a published ImageNet variant, or None."""
    from convmixer_keras.images.class_names import published_classes

    names = published_classes("imagenet")
    return names if preset and preset.classes == len(names) == model.output_shape[-1] else None


def _expected_outputs(checkpoint, arguments, normalization):
    sizes = checkpoint.recognised.sizes
    arrays = {name: stored.read() for name, stored in checkpoint.recognised.tensors.items()}
    mean_and_std = ()
    if normalization:
        mean_and_std = tuple(255 * np.array(values) for values in normalization)
    return torch_outputs(
        sizes,
        checkpoint.activation,
        arrays,
        arguments.image_size,
        mean_and_std,
        arguments.images,
        checkpoint.preset,
    )


def _to_torch(arguments, verify):
    checkpoint_file.check_writable_name(arguments.output)
    model = load_model(arguments.input)
    state = to_torch.to_state_dict(model, arguments.to)
    parts = to_torch.convertible(model)
    sizes, activation = parts.sizes, parts.activation
    print(f"{one_line(arguments.input)}: {sizes}, {activation}")
    mean_and_std = () if parts.mean is None else (parts.mean, parts.std)
    if mean_and_std:
        print("input_normalization is left out: the PyTorch weights take channels that are normalised")
    if parts.head_activation != "linear":
        print(f"{parts.head_activation} is left out: the PyTorch weights give logits")
    dtype = parts.stem.layer.compute_dtype
    if verify and dtype != "float32":
        print(f"not verified: the model computes in {dtype}, and PyTorch's would in float32")
    elif verify:
        modules = to_torch.TARGETS[arguments.to].module_names(sizes.depth)
        arrays = {
            (layer, tensor): state[f"{module}.{tensor}"]
            for layer, module in modules.items()
            for tensor in layouts.tensor_names(layer)
        }
        expected = torch_outputs(
            sizes, activation, arrays, model.input_shape[1], mean_and_std, arguments.images
        )
        compare(model, expected)
    in_units = tuple(values / 255 for values in mean_and_std)
    metadata = timm_config.to_metadata(preprocessing_module.of(arguments.input), sizes, in_units)
    checkpoint_file.write_checkpoint(state, arguments.output, metadata)


if __name__ == "__main__":
    command()
