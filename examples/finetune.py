#!/usr/bin/env python3
"""How a trained ConvMixer learns new classes, in plain Keras, to read and to change.

  python examples/finetune.py three/                                     three/CLASS/*.jpg
  convmixer-predict new.jpg --model outputs/finetuned.keras              what the result is for

First a new classifier is trained on top of a body that stays as it is, then all of it at a lower rate. For
a folder of your own, `convmixer-train --dataset FOLDER --init-from ConvMixer1024_20` does the same with a
run's checkpoints, curves and reports, and without going through the body in each epoch of the first part.
"""

import os

import keras

import convmixer_keras as ck
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils import command_line

# The weights that come with the package; for photographs ck.ConvMixer1024_20, "imagenet" and 224.
BUILDER, WEIGHTS, SIZE = ck.ConvMixer256_8_P2, "cifar10", 32
OUTPUT = "outputs/finetuned.keras"


def main():
    parser = command_line.parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="photographs as FOLDER/CLASS/*.jpg")
    parser.add_argument("--epochs", type=command_line.positive, default=5, help="of each part")
    arguments = parser.parse_args()

    os.makedirs(os.path.dirname(OUTPUT), exist_ok=True)
    keras.utils.set_random_seed(0)
    train, held_out = keras.utils.image_dataset_from_directory(
        arguments.folder,
        image_size=(SIZE, SIZE),
        crop_to_aspect_ratio=True,
        validation_split=0.2,
        subset="both",
        seed=0,
    )
    names = train.class_names
    flip = keras.layers.RandomFlip("horizontal")
    train = train.map(lambda images, labels: (flip(images, training=True), labels))

    body = BUILDER(
        weights=WEIGHTS,
        include_preprocessing=True,
        include_top=False,
        pooling="avg",
        input_shape=(SIZE, SIZE, 3),
    )
    head = keras.layers.Dense(len(names), activation="softmax", name="head")
    model = keras.Model(body.input, head(body.output))

    body.trainable = False
    fit(model, train, held_out, 3e-3, arguments.epochs)
    body.trainable = True
    for layer in body.layers:  # A few photographs say too little about means and variances.
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    fit(model, train, held_out, 2e-4, arguments.epochs)

    for layer in body.layers:
        layer.trainable = True
    # As `image_dataset_from_directory` reads photographs: it does not turn them. (It does not smooth large
    # ones either as they shrink, which no record can say.)
    record = Preprocessing(SIZE, interpolation="bilinear", orientation="stored")
    ck.save_model(model, OUTPUT, names, record)
    print(f"wrote {OUTPUT}, which knows {', '.join(names)}")


def fit(model, train, held_out, rate, epochs):
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, validation_data=held_out, epochs=epochs, shuffle=False, verbose=2)  # It is shuffled.


if __name__ == "__main__":
    command_line.run(main)
