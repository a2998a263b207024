"""The files that a reader of the pages has: photographs, models, checkpoints, data sets. All are small."""

import hashlib
import json

import keras
import numpy as np
import pytest
import torch_reference
from conftest import ROOT
from PIL import Image

import convmixer_keras as ck
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.weights import checkpoint_file, to_torch
from convmixer_keras.models import presets

PIXELS = {"input_mean": 120.0, "input_std": 60.0}
ANIMALS = ["cat", "dog"]


def photographs(folder, count):
    random = np.random.default_rng(len(folder.name))
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = random.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder with the small files that the pages speak of."""
    root = tmp_path_factory.mktemp("reader")
    for name in ("examples", "benchmarks", "train_keras.py"):
        (root / name).symlink_to(ROOT / name)
    for split, count in (("train", 6), ("val", 2)):
        for name in ANIMALS:
            photographs(root / "photos" / split / name, count)
            photographs(root / "imagenet-folder" / split / name, count)
    for name in (*ANIMALS, "truck"):
        photographs(root / "three" / name, 6)
    for folder in ("seven", "cifar10-jpeg"):
        for split, count in (("train", 4), ("test", 1)):
            for name in ("airplane", *ANIMALS, "truck"):
                photographs(root / folder / split / name, count)
    for name in ("dog", "cat", "truck", "a"):
        (root / f"{name}.jpg").write_bytes((root / "photos/train/dog/0.jpg").read_bytes())
    _scenes(root / "scenes")
    for path, classes, shape in (
        ("runs/digits/model.keras", [str(i) for i in range(10)], (8, 8, 1)),
        ("runs/photos/model.keras", ANIMALS, (32, 32, 3)),
        ("runs/seven/model.keras", [*ANIMALS, "truck"], (32, 32, 3)),
        ("runs/seven4/model.keras", [*ANIMALS, "truck"], (32, 32, 3)),
        ("runs/finetune/model.keras", ANIMALS, (32, 32, 3)),
        ("model.keras", ANIMALS, (32, 32, 3)),
        ("outputs/finetuned.keras", [*ANIMALS, "truck"], (32, 32, 3)),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        model = ck.ConvMixer(8, 4, 3, 4, classes=len(classes), input_shape=shape, **PIXELS)
        ck.save_model(model, root / path, classes)
    history = "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n1,2.0,0.4,1.9,0.5,0.01\n"
    (root / "runs" / "digits" / "history.csv").write_text(history)
    # What `convmixer-convert` leaves: a model of normalised channels.
    converted = ck.ConvMixer(8, 1, 3, 14, classes=2, input_shape=(224, 224, 3))
    ck.save_model(converted, root / "converted.keras", ANIMALS)
    _checkpoints(root)
    _other_program(root / "functional.keras")
    return root


def _scenes(folder):
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(10):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray(random.integers(0, 3, (32, 32), np.uint8)).save(folder / "masks" / f"{i}.png")


def _checkpoints(root):
    import torch

    model = keras.saving.load_model(root / "model.keras")
    tflite.export(model, root / "model.tflite", labels=ANIMALS)
    (root / "three.tflite").write_bytes((root / "model.tflite").read_bytes())
    state = to_torch.to_state_dict(model, "official")
    state = {name: torch.tensor(array) for name, array in state.items()}
    torch.save(state, root / "checkpoint.pth")
    network = torch_reference.official(8, 4, 3, 4, len(ANIMALS), 3, torch.nn.GELU).eval()
    network.load_state_dict(state, strict=False)  # Without PyTorch's counters of batches.
    inputs = torch.randn(2, 3, 32, 32)
    np.savez(root / "reference.npz", inputs=inputs, logits=network(inputs).detach())


def _other_program(path):
    """A ConvMixer of another program that uses Keras' own layers."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 4, strides=4, activation="gelu")(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.BatchNormalization()(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", activation="gelu")(x)
    x = keras.layers.Add()([keras.layers.BatchNormalization()(y), x])
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 1, activation="gelu")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(image, keras.layers.Dense(2, activation="softmax")(x)).save(path)


@pytest.fixture(scope="session")
def kimm_file(prepared):
    """A file of kimm's own class."""
    from kimm._src.models.convmixer import ConvMixer

    options = {"include_top": True, "pooling": None, "dropout_rate": 0.0, "classes": 5, "weights": None}
    options |= {"feature_extractor": False, "feature_keys": None, "classifier_activation": "linear"}
    model = ConvMixer(2, 8, 2, 3, "gelu", input_shape=(16, 16, 3), include_preprocessing=False, **options)
    model.save(prepared / "kimm.keras")


@pytest.fixture(scope="session")
def tfds_data(tmp_path_factory):
    """CIFAR-10 and ImageNet as tensorflow-datasets prepares them, with eight and four images."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    random = np.random.default_rng(0)
    for name, held_out in (("cifar10", "test"), ("imagenet2012", "validation")):
        info = tfds.builder(name, data_dir="/nowhere").info
        names = set(info.features) - {"image", "label"}
        splits = {
            split: [
                (i, {"image": image, "label": i, **dict.fromkeys(names, f"{i}")})
                for i, image in enumerate(random.integers(0, 256, (count, 32, 32, 3), np.uint8))
            ]
            for split, count in (("train", 8), (held_out, 4))
        }
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name, version=str(info.version), features=info.features, split_datasets=splits, data_dir=root
        )
    return root


@pytest.fixture(scope="session")
def published_weights(prepared):
    """Random weights in the place where the published ones are kept after the first use."""
    preset = presets.CONVMIXER_1024_20
    folder = prepared / "keras" / "models" / "convmixer_keras"
    folder.mkdir(parents=True)
    weights = folder / f"{preset.timm_name}.in1k.weights.h5"
    ck.ConvMixer1024_20().save_weights(weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    record = {"name": "", "url": None, "sha256": "", "converted_sha256": sha256}
    weights.with_name(f"{preset.timm_name}.in1k.json").write_text(json.dumps(record))


@pytest.fixture(scope="session")
def published_checkpoint(prepared):
    """timm's file of ConvMixer-768/32, with random weights."""
    state = to_torch.to_state_dict(ck.ConvMixer768_32(), "timm")
    checkpoint_file.write_checkpoint(state, prepared / "convmixer_768_32.safetensors")
