"""Compares a converted network's outputs with those of the same weights in PyTorch."""

from convmixer_keras.convert import agreement
from convmixer_keras.models import presets
from convmixer_keras.utils import progress
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.text import one_line

# With this many patches a side, edges and inner places both count, whatever the patch size.
_PATCHES_TO_VERIFY = 16


def torch_outputs(sizes, activation, arrays, image_size, mean_and_std, folder, preset=None):
    """Returns pairs of `Images` and PyTorch's outputs on them."""
    from convmixer_keras.convert.weights import against_torch

    size = image_size or _PATCHES_TO_VERIFY * sizes.patch_size
    sets = [against_torch.random_images(size, sizes.channels, *mean_and_std)]
    if folder is not None:
        if sizes.channels != 3:
            raise InputError(f"--images have 3 channels, and the network takes {sizes.channels}")
        sets.append(
            against_torch.real_images(folder, size, preset or presets.CONVMIXER_1536_20, *mean_and_std)
        )
    return [
        (images, against_torch.torch_outputs(sizes, activation, arrays, _counted(images, "running PyTorch")))
        for images in sets
    ]


def _counted(images, what):
    """Returns the `Images` so that going through them shows how far it is."""
    return images._replace(
        raw=lambda: progress.shown(images.raw(), f"{what} on {images.name}", unit="done", amount=len)
    )


def compare(model, expected, features=False):
    """Prints how well the Keras model agrees with PyTorch, and raises Failure if it does not."""
    from convmixer_keras.convert.weights import against_torch

    for images, theirs in expected:
        ours = against_torch.keras_outputs(model, _counted(images, "running Keras"), features)
        found = agreement.check(ours, theirs, "Keras and PyTorch", features=features)
        print(f"verified on {one_line(images.name)}, {images.size} x {images.size}: {found}")
