#!/usr/bin/env python3
"""Teaches a trained ConvMixer the classes of your own folder of photographs.

  python examples/finetune.py photos/                                    photos/cat/*.jpg, photos/dog/*.jpg
  python examples/finetune.py photos/ --from runs/cifar10/model.keras    start from a model of your own
  python examples/finetune.py photos/ --epochs 5 0                       a linear probe: the body stays
  convmixer-predict new.jpg --model outputs/finetuned.keras              what the result is for

The network gets a new classifier. At first only that is trained, on top of a body that stays as it is, and
then all of it at a lower rate. Prints the accuracy on a fifth of each class's photographs, which are held
out (or, of photos/train/cat/ and photos/val/cat/, on those in val). The saved model takes raw pixels, gives
probabilities and knows the names of the classes.

Took 12 to 21 s for 600 images of 32x32 in three classes and a ConvMixer-128/5, on 4 cores of an AMD EPYC;
with ConvMixer-1024/20 at 224x224 the first epoch over 38 photographs took 10 s for the classifier alone and
48 s for all of it.
"""

import concurrent.futures
import os
import shlex

import numpy as np

from convmixer_keras.commands import flags
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils import command_line, progress, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import check_output
from convmixer_keras.utils.text import one_line

HELD_OUT_SHARE = 0.2
BATCH = 32
CLASSIFIER_RATE, BODY_RATE = 3e-3, 2e-4
SEED = 0


def main():
    arguments = parse()
    streams.quiet_start()
    from convmixer_keras.models.saving import save_model
    from convmixer_keras.utils.files import make_folder, written_whole

    check_output(arguments.output, ".keras", [arguments.start])
    if not any(arguments.epochs):
        raise InputError("--epochs must be at least 1 for the classifier or for all of it, got 0 0")
    names, train, held_out = split(arguments.folder)
    print(f"{len(names)} classes, {len(train)} photographs to train on, {len(held_out)} held out", flush=True)
    make_folder(os.path.dirname(arguments.output))
    # Around all of the work, which would be lost if the model could not be written.
    with written_whole(arguments.output) as temporary:
        model, preprocessing, accuracy = finetune(names, train, held_out, arguments)
        save_model(model, temporary, names, preprocessing)
    print(
        f"accuracy on what was held out: {100 * accuracy:.1f} %\n"
        f"wrote {one_line(arguments.output)}, which knows {one_line(', '.join(names))}"
    )
    for command in next_commands(arguments.output, arguments.folder):
        print(f"  {shlex.join(command)}")


def next_commands(model, folder):
    """Returns what to do with the model next, as lists of words."""
    tflite = os.path.splitext(model)[0] + ".tflite"
    return (
        ["convmixer-predict", "PHOTO", "--model", model],
        ["convmixer-tflite", model, tflite, "--calibrate", folder],
    )


def finetune(names, train, held_out, arguments):
    """Returns the trained model, uncompiled, its `Preprocessing`, and its accuracy on what was held out."""
    import keras

    from convmixer_keras import inference

    keras.utils.set_random_seed(SEED)
    # The user's photographs are turned as their EXIF data says, whatever the body was trained on.
    changes = {"orientation": "exif", **flags.given(arguments, Preprocessing)}
    body = inference.load(arguments.start, False, **changes)
    print(f"images: {body.preprocessing}")
    dtype = np.uint8 if body.preprocessing.mean is None else np.float32
    train, held_out = batches(train, body.read, dtype, training=True), batches(held_out, body.read, dtype)
    head = keras.layers.Dense(len(names), activation="softmax", name="head")
    model = keras.Model(body.model.input, head(body.model.outputs[0]))

    # Normalisation that is not trained uses the statistics that it came with. It stays so to the end: a few
    # photographs say too little about means and variances.
    stays = (keras.layers.BatchNormalization, keras.layers.Normalization)
    for what, rate, epochs, trained in (
        ("the classifier alone", CLASSIFIER_RATE, arguments.epochs[0], lambda layer: layer is head),
        ("all of it", BODY_RATE, arguments.epochs[1], lambda layer: not isinstance(layer, stays)),
    ):
        if not epochs:
            continue
        print(f"training {what}: {epochs} epochs at a rate of {rate:g}", flush=True)
        for layer in model.layers:
            layer.trainable = trained(layer)
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(
            train,
            validation_data=held_out,
            epochs=epochs,
            shuffle=False,  # The batches are shuffled already.
            verbose=progress.keras_verbosity(),
        )

    accuracy = model.evaluate(held_out, return_dict=True, verbose=0)["accuracy"]
    for layer in model.layers:
        layer.trainable = True
    return keras.Model(model.input, model.output), body.preprocessing, accuracy


def split(folder):
    """Returns the names of the classes, and pairs (path, class number) to train on and to hold out."""
    from convmixer_keras.images.folder import HELD_OUT, VALIDATION_SPLITS, Folder, check_same_classes

    if not os.path.isdir(folder):
        raise InputError(f"there is no folder {folder}")
    photos = Folder(folder, validation_share=HELD_OUT_SHARE)
    if "train" not in photos.split_names:
        raise InputError(f"{folder} has no split 'train'; it has: {', '.join(photos.split_names)}")
    held_out = next(name for name in (*VALIDATION_SPLITS, HELD_OUT) if name in photos.split_names)
    train, held_out_paths = photos.split("train").paths, photos.split(held_out).paths
    check_same_classes(train, held_out_paths, f"{held_out!r} of {folder}")
    if len(train) < 2:
        raise InputError(f"{folder} must hold a folder of photographs for each of at least two classes")
    return sorted(train), numbered(train), numbered(held_out_paths)


def numbered(paths_of):
    return [(path, number) for number, name in enumerate(sorted(paths_of)) for path in paths_of[name]]


def batches(pairs, read, dtype, training=False):
    """Returns batches of images and class numbers; those to train on are shuffled and half mirrored."""
    import tensorflow as tf

    paths, numbers = zip(*pairs, strict=True)
    # Kept in memory: to decode a photograph takes longer than to train on it.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        images = progress.shown(pool.map(read, paths), "reading", len(paths), "photographs")
        images = np.stack([image.astype(dtype) for image in images])
    examples = tf.data.Dataset.from_tensor_slices((images, list(numbers)))
    if training:
        examples = examples.shuffle(len(pairs), seed=SEED)
        examples = examples.map(lambda image, number: (tf.image.random_flip_left_right(image), number))
    return examples.batch(BATCH).prefetch(1)


def parse():
    parser = command_line.parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="photographs as FOLDER/CLASS/*.jpg")
    parser.add_argument(
        "--from",
        dest="start",
        default="ConvMixer1024_20",
        metavar="MODEL",
        help="a .keras file, or a builder that has published weights",
    )
    parser.add_argument(
        "--output", default="outputs/finetuned.keras", metavar="FILE", help="the model to write"
    )
    parser.add_argument(
        "--epochs",
        type=command_line.not_negative,
        nargs=2,
        default=(5, 5),
        metavar=("N", "M"),
        help="N for the classifier alone, then M for all of it; 0 leaves a part out: 5 0 is a linear probe",
    )
    flags.add_flags(parser, Preprocessing(), show_defaults=False)
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
