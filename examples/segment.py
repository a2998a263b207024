#!/usr/bin/env python3
"""Learns to say what each pixel of a photograph belongs to: a small dense head on a ConvMixer's feature maps.

  python examples/segment.py scenes/                                  scenes/images/*.png, scenes/masks/*.png
  python examples/segment.py photos/ --from runs/photos/model.keras   start from a body of your own
  python examples/segment.py scenes/ --tflite segmenter.tflite        and a file for phones

A mask has the name and the size of its image, and for each pixel the number of its class: 0, 1, 2, ...;
255 does not count. Masks of nothing but 0 and 255, as many programs draw a thing before its background, have
two classes. `draw_scenes.py` draws some to try it on. A fifth of the images is held out. Prints the mean
intersection over union on those, and draws some of them: image, truth and prediction.
"""

import os

import numpy as np

from convmixer_keras.utils import command_line, progress, streams
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.text import one_line

IGNORED = 255
LARGEST_SIZE = 4096
SEED = 0


def main():
    arguments = parse()
    streams.quiet_start()
    from convmixer_keras.models.saving import save_model
    from convmixer_keras.utils.files import check_output, make_folder, written_whole

    check_output(arguments.output, ".keras")
    if arguments.tflite:
        check_output(arguments.tflite, ".tflite")
    if arguments.size > LARGEST_SIZE:
        raise InputError(f"--size must be at most {LARGEST_SIZE}, got {arguments.size}")
    images, masks = read(arguments.folder, arguments.size)
    order = np.random.default_rng(SEED).permutation(len(images))
    images, masks, held_out = images[order], masks[order], max(1, len(images) // 5)
    classes = int(masks[masks != IGNORED].max()) + 1
    print(
        f"{classes} classes, {len(images) - held_out} images to learn from, {held_out} held out", flush=True
    )
    for path in filter(None, (arguments.output, arguments.picture, arguments.tflite)):
        make_folder(os.path.dirname(path))
    with written_whole(arguments.output) as model_file, written_whole(arguments.picture) as picture:
        model = train(images[held_out:], masks[held_out:], classes, arguments)
        predicted = model.predict(images[:held_out], batch_size=8, verbose=0).argmax(-1)
        scores = intersection_over_union(predicted, masks[:held_out], classes)
        for number, score in enumerate(scores):
            print(f"  class {number}: {100 * score:.1f} %")
        print(f"mean intersection over union of what was held out: {100 * np.nanmean(scores):.1f} %")
        save_model(model, model_file)
        shown = slice(min(4, held_out))
        draw(images[shown], masks[shown], predicted[shown], picture)
    print(f"wrote {one_line(arguments.output)}, and {one_line(arguments.picture)}: image, truth, prediction")
    if arguments.tflite:
        with written_whole(arguments.tflite) as temporary, open(temporary, "wb") as file:
            file.write(converted(model))
        print(f"wrote {one_line(arguments.tflite)}: pixels to scores of each pixel, for LiteRT")


def converted(model):
    """Returns a `.tflite` file's bytes, by TensorFlow's own converter: ours takes classifiers."""
    import tensorflow as tf

    with streams.silence(), streams.quiet_python():
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def train(images, masks, classes, arguments):
    """Returns a model from pixels (batch, size, size, 3), 0..255, to scores (batch, size, size, classes)."""
    import keras

    import convmixer_keras as ck
    from convmixer_keras.models import inputs, parts

    keras.utils.set_random_seed(SEED)
    if arguments.start is None:
        body = ck.ConvMixer(
            64, 6, 7, 4, include_top=False, input_mean=128, input_std=64, input_shape=(None, None, 3)
        )
    else:
        body = ck.inference.load(arguments.start, include_top=False).model
        if inputs.takes_pixels(body) is False or body.input_shape[-1] != 3:
            raise InputError(f"{arguments.start} must take colour pixels 0..255 and normalise them itself")
    network = parts.of(body)
    if images.shape[1] < network.sizes.patch_size:
        raise InputError(f"--size must be at least the patch size, {network.sizes.patch_size}")
    depth = len(network.blocks)
    blocks = sorted({depth // 3, 2 * depth // 3, depth - 1})
    size = images.shape[1]
    image = keras.Input((size, size, 3), name="image")
    maps = ck.features(body, blocks)(image)
    x = keras.layers.Concatenate()(maps) if len(blocks) > 1 else maps[0]
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="dense1")(x)
    x = keras.layers.Conv2D(classes, 1, name="dense2")(x)
    scores = keras.layers.Resizing(size, size, "bilinear", name="scores")(x)
    model = keras.Model(image, scores)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)
    images, masks = (np.concatenate([part, part[:, :, ::-1]]) for part in (images, masks))  # And mirrored.
    rate = keras.optimizers.schedules.CosineDecay(3e-3, arguments.epochs * -(-len(images) // 8))
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-3), loss)
    model.fit(images, masks, batch_size=8, epochs=arguments.epochs, verbose=progress.keras_verbosity())
    return model


def intersection_over_union(predicted, truth, classes):
    """Returns the share of each class, (classes,), that is both predicted and true; NaN for one not there."""
    counted = truth != IGNORED
    pairs = np.bincount(truth[counted] * classes + predicted[counted], minlength=classes**2)
    confusion = pairs.reshape(classes, classes)
    with np.errstate(invalid="ignore"):
        return confusion.diagonal() / (confusion.sum(0) + confusion.sum(1) - confusion.diagonal())


def read(folder, size):
    """Returns uint8 images (n, size, size, 3) and int32 masks (n, size, size) of a folder."""
    from PIL import Image

    from convmixer_keras.images.reading import read as read_image

    parts = [os.path.join(folder, part) for part in ("images", "masks")]
    for part in parts:
        if not os.path.isdir(part):
            raise InputError(f"there is no folder {part}")
    paths, masks = map(by_name, parts)
    pairs = [(path, masks.get(name)) for name, path in paths.items()]
    missing = [path for path, mask in pairs if mask is None]
    if missing:
        raise InputError(f"{missing[0]} has no mask of its name in {parts[1]}")
    if len(pairs) < 2:
        raise InputError(f"there must be at least two images in {parts[0]}, found {len(pairs)}")

    images, numbers = [], []
    for path, mask in pairs:
        image = read_image(path)
        numbers.append(read_mask(mask, image.size, size))
        images.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
    numbers = np.stack(numbers)
    shown = np.unique(numbers).tolist()
    if shown == [0, IGNORED]:
        numbers[numbers == IGNORED] = 1
    elif len(shown) < 2 or shown[:2] == [shown[0], IGNORED]:
        raise InputError(f"the masks in {parts[1]} must show at least two classes, and hold only {shown}")
    return np.stack(images), numbers


def by_name(folder):
    """Returns the images of a folder, by their paths in it without the ending."""
    from convmixer_keras.images.listing import image_paths

    found = {}
    for path in image_paths(folder):
        name = os.path.splitext(os.path.relpath(path, folder))[0]
        if name in found:
            raise InputError(f"{found[name]} and {path} differ in their ending only: which one counts?")
        found[name] = path
    return found


def read_mask(path, whole, size):
    """Returns the numbers in a mask of the `whole` size, int32 (size, size): of a palette not the colours."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.format == "JPEG":  # Around every edge it holds numbers of classes that nobody drew.
                raise InputError(f"{path} is a JPEG file, which does not keep numbers: save masks as PNG")
            if image.size != whole:
                raise InputError(f"{path} must have its image's size, {whole}, and has {image.size}")
            mode, mask = image.mode, np.asarray(image.resize((size, size), Image.Resampling.NEAREST))
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise nearly everything on damaged files.
        raise InputError(f"cannot read {path} as an image: {first_line(error)}") from None
    if mask.ndim != 2 or mode == "F":
        raise InputError(f"{path} must have one number for each pixel, not a colour")
    if mask.min() < 0 or mask.max() > IGNORED:
        raise InputError(f"{path} must hold numbers from 0 to {IGNORED}, and holds {mask.max()}")
    return mask.astype(np.int32)


def draw(images, masks, predicted, path):
    from matplotlib.patches import Patch

    from convmixer_keras.utils.figures import image_grid

    colours = np.random.default_rng(3).integers(40, 256, (256, 3))
    colours[0], colours[IGNORED] = 0, 255
    rows = [
        picture
        for i in range(len(images))
        for picture in (images[i], colours[masks[i]], colours[predicted[i]])
    ]
    titles = ["image", "truth", "prediction"] + [""] * (len(rows) - 3)
    figure = image_grid(rows, titles, columns=3)
    classes = [number for number in np.unique([masks, predicted]) if number != IGNORED]
    key = [Patch(facecolor=colours[number] / 255, label=f"class {number}") for number in classes]
    figure.legend(handles=key, loc="outside lower center", ncols=len(key), fontsize=7, frameon=False)
    figure.savefig(path)


def parse():
    parser = command_line.parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="holds images/ and masks/")
    parser.add_argument(
        "--from", dest="start", metavar="MODEL", help="a body that is trained already, .keras"
    )
    number = command_line.positive
    parser.add_argument("--size", type=number, default=96, metavar="N", help="side of the images in pixels")
    parser.add_argument("--epochs", type=number, default=8, metavar="N", help="passes over the images")
    parser.add_argument(
        "--output", default="outputs/segmenter.keras", metavar="FILE", help="the model to write"
    )
    parser.add_argument(
        "--picture",
        type=command_line.picture,
        default="outputs/segmented.png",
        metavar="FILE",
        help="the picture to write",
    )
    parser.add_argument("--tflite", metavar="FILE", help="also write a .tflite file")
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
