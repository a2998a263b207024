"""`--init-from` with each kind of name, and such runs resumed."""

import dataclasses
import json

import h5py
import keras
import numpy as np
import pytest
import torch
import torch_reference
from hub_server import hub  # noqa: F401
from safetensors.torch import save_file
from small_models import build

import convmixer_keras as ck
from convmixer_keras import pretrained
from convmixer_keras.commands import train
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.training.run.run_folder import RunFolder
from convmixer_keras.training.step import network

pytestmark = pytest.mark.slow

FLAGS = ["--image-size", "12", "--batch-size", "6", "--epochs", "1", "--learning-rate", "0"]
# A published variant, shrunk.
SMALL = dataclasses.replace(
    presets.CONVMIXER_768_32, hidden_dim=8, depth=2, kernel_size=3, patch_size=2, classes=10
)


def start(image_folder, output, *flags):
    arguments = ["--dataset", image_folder, "--output", output, *FLAGS, *flags]
    assert train.main([str(argument) for argument in arguments]) == 0
    return keras.saving.load_model(output / "last.keras"), json.loads((output / "config.json").read_text())


def assert_same_kernels(model, arrays):
    """A learning rate of 0 leaves what the run began with."""
    for name, expected in arrays.items():
        np.testing.assert_allclose(model.get_layer(name).get_weights()[0], expected, rtol=0, atol=1e-6)


def test_a_published_variant_by_its_name(image_folder, hub, monkeypatch, tmp_path):  # noqa: F811
    reference = torch_reference.random_model("timm", 8, 2, 3, 2, 10, act=torch.nn.ReLU)
    save_file(reference.state_dict(), tmp_path / "served")
    address = "/timm/convmixer_768_32.in1k/resolve/main/model.safetensors"
    hub.files[address] = (200, {}, (tmp_path / "served").read_bytes())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(presets, "PRESETS", (SMALL,))
    model, config = start(image_folder, tmp_path / "run", "--init-from", "ConvMixer768_32")
    assert hub.asked == [address]
    state = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    kernels = {
        "stem_conv": state["stem.0.weight"].transpose(2, 3, 1, 0),
        "block1_depthwise": state["blocks.1.0.fn.0.weight"].transpose(2, 3, 0, 1),
        "block1_pointwise": state["blocks.1.1.weight"].transpose(2, 3, 1, 0),
    }
    assert_same_kernels(model, kernels)
    assert model.get_layer("stem_conv").activation is keras.activations.relu
    assert config["recipe"]["mean"] == list(presets.IMAGENET_MEAN)
    assert model.output_shape == (None, 3)


def test_the_weights_of_the_package(image_folder, tmp_path, capsys):
    flags = ("--init-from", "ConvMixer256_8_P2", "--image-size", "17", "--crop-pct", "1")
    model, config = start(image_folder, tmp_path / "run", *flags)
    body, differs, recipe, *_ = capsys.readouterr().out.splitlines()
    assert body == (
        "body ConvMixer256_8_P2: image_size 32, crop_pct 1.0, interpolation bicubic, "
        "mean 0.4914 0.4822 0.4465, std 0.2471 0.2435 0.2616"
    )
    assert differs == "image_size is 17 by its flag; ConvMixer256_8_P2 has 32"
    assert "at 17x17 (16 of 17 are seen in whole patches): 1 epoch, batch 6" in recipe
    with h5py.File(pretrained.CIFAR10_FILE) as file:
        kernels = {
            "stem_conv": file["layers/conv2d/vars/0"][:],
            "block7_pointwise": file["layers/conv2d_8/vars/0"][:],
        }
    assert_same_kernels(model, kernels)
    assert config["recipe"]["mean"] == list(presets.CIFAR10_MEAN)
    assert model.output_shape == (None, 3)


def body_at(path):
    model = build(
        hidden_dim=8, kernel_size=3, patch_size=2, input_shape=(12, 12, 3), input_mean=100, input_std=50
    )
    ck.save_model(model, path, [str(i) for i in range(5)], Preprocessing(12))
    return model


def test_a_repository_of_the_hub(image_folder, hub, tmp_path):  # noqa: F811
    body = body_at(tmp_path / "body.keras")
    hub.put("user/repo", {"model.keras": (tmp_path / "body.keras").read_bytes()})
    model, config = start(image_folder, tmp_path / "run", "--init-from", "hf://user/repo", "--freeze", "1")
    names = ("stem_conv", "block0_depthwise", "block1_pointwise")
    assert_same_kernels(model, {name: body.get_layer(name).get_weights()[0] for name in names})
    assert config["settings"]["freeze"] == 1


def test_a_resumed_run_stays_frozen_and_is_the_run_without_a_pause(image_folder, tmp_path):
    body = body_at(tmp_path / "body.keras")
    recipe = dataclasses.replace(
        ck.recipes.RECIPES["finetune"], dataset=str(image_folder), batch_size=6, epochs=2, head_epochs=3
    )
    recipe = dataclasses.replace(recipe, **network.facts_of_body(tmp_path / "body.keras"))
    settings = ck.training.Settings(init_from=str(tmp_path / "body.keras"), freeze=1)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    ck.training.train(recipe, tmp_path / "straight", settings, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        ck.training.train(recipe, tmp_path / "run", settings, verbose=0, callbacks=[Stop()])
    (tmp_path / "body.keras").rename(tmp_path / "moved.keras")  # The checkpoint has all that is needed.
    assert train.main(["--resume", "--output", str(tmp_path / "run")]) == 0
    resumed, straight = (
        keras.saving.load_model(tmp_path / name / "last.keras") for name in ("run", "straight")
    )
    for layer in straight.layers:
        for one, other in zip(layer.get_weights(), resumed.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5, err_msg=layer.name)
    for name in ("stem_conv", "block0_depthwise", "block0_pointwise"):
        np.testing.assert_array_equal(
            resumed.get_layer(name).get_weights()[0], body.get_layer(name).get_weights()[0]
        )
    assert json.loads((tmp_path / "run/config.json").read_text())["settings"]["freeze"] == 1


def test_a_run_goes_on_as_its_body_was_prepared(image_folder, tmp_path, capsys):
    """Fine-tuned at its own size, continued without a flag: no accuracy is lost on the way."""
    body_at(tmp_path / "body.keras")

    def start_again(name, source, *flags):
        output = tmp_path / name
        arguments = ["--dataset", image_folder, "--batch-size", 6, "--output", output, "--init-from", source]
        assert train.main([str(argument) for argument in (*arguments, *flags)]) == 0
        recipe = json.loads((output / "config.json").read_text())["recipe"]
        return recipe, max(row["val_accuracy"] for row in RunFolder(output).read_history())

    recipe, reached = start_again("one", tmp_path / "body.keras", "--epochs", 3)
    assert (recipe["image_size"], recipe["crop_pct"], recipe["orientation"]) == (12, 1.0, "exif")
    capsys.readouterr()
    flags = ("--epochs", 1, "--learning-rate", 0)
    recipe, kept = start_again("two", tmp_path / "one/model.keras", *flags)
    assert "head: the body's, which knows these classes" in capsys.readouterr().out
    assert recipe["image_size"] == 12
    assert kept == pytest.approx(reached, abs=1e-6)


def test_grey_images_from_a_body_for_colour(tmp_path):
    flags = ["--dataset", "digits", "--init-from", "ConvMixer256_8_P2", "--output", str(tmp_path / "run")]
    parts = ["--train-split", "train[:64]", "--validation-split", "test[:32]"]
    epochs = ["--head-epochs", "30", "--epochs", "1", "--learning-rate", "0"]
    assert train.main([*flags, *parts, *epochs]) == 0
    model = keras.saving.load_model(tmp_path / "run/last.keras")
    assert model.input_shape == (None, 32, 32, 1)
    with h5py.File(pretrained.CIFAR10_FILE) as file:
        kernel = file["layers/conv2d/vars/0"][:].astype(np.float32)
    assert_same_kernels(model, {"stem_conv": kernel.sum(2, keepdims=True)})
    assert RunFolder(tmp_path / "run").read_history()[0]["val_accuracy"] > 0.4
