"""Conversions give the logits of independently written PyTorch models; nothing is guessed."""

import argparse
import collections
import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import torch
import torch_reference
from conftest import Outcome
from safetensors.torch import load_file, save_file
from torch import nn

import convmixer_keras as ck
from convmixer_keras.convert.weights import activations, network, to_keras
from convmixer_keras.models import presets
from convmixer_keras.utils.errors import InputError

# hidden_dim, depth, kernel, patch, classes, channels
SHAPES = [(24, 3, 5, 2, 10, 3), (8, 1, 3, 1, 7, 1), (32, 2, 7, 4, 1000, 4), (16, 2, 9, 7, 2, 3)]


SMALL = (16, 2, 3, 2, 10, 3)


def images(patch, channels, count=2):
    # 9 and a half patches: what is beyond the ninth is not seen.
    side = 9 * patch + patch // 2
    return np.random.default_rng(1).standard_normal((count, side, side, channels), np.float32)


def logits(model, batch):
    return keras.ops.convert_to_numpy(model(batch, training=False))


def saved(path, model):
    (save_file if path.suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    return path


def assert_same_logits(model, reference, batch, tolerance=1e-4):
    expected = torch_reference.logits(reference, batch)
    assert np.std(expected) > 0.05  # Outputs that are all alike would prove nothing.
    np.testing.assert_allclose(logits(model, batch), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        *((layout, SHAPES[0]) for layout in torch_reference.LAYOUTS),
        *(("timm", shape) for shape in SHAPES[1:]),
    ],
    ids=str,
)
def test_logits_of_every_layout(layout, shape, tmp_path):
    reference = torch_reference.random_model(layout, *shape)
    path = saved(tmp_path / "m.safetensors", reference)
    model = to_keras.convert_checkpoint(path, activation="gelu")
    assert_same_logits(model, reference, images(shape[3], shape[5]))


@pytest.mark.parametrize("ending", [".pth", ".pth.tar", ".pt", ".bin", ".safetensors"])
def test_every_file_kind_holds_the_same_weights(ending, tmp_path):
    reference = torch_reference.random_model("official", *SMALL)
    checkpoint = to_keras.open_checkpoint(saved(tmp_path / f"m{ending}", reference), activation="relu")
    assert checkpoint.layout == "official"
    assert len(checkpoint.keys) == len(
        [name for name in reference.state_dict() if "num_batches_tracked" not in name]
    )
    for name, key in checkpoint.keys.items():
        np.testing.assert_array_equal(
            checkpoint.tensors[name].read(), reference.state_dict()[key].numpy(), strict=True
        )


@pytest.mark.slow
def test_names_that_pytorch_itself_gives_wrapped_models(tmp_path):
    reference = torch_reference.random_model("timm", *SMALL)
    torch.save(nn.DataParallel(torch.compile(reference)).state_dict(), tmp_path / "m.pth")
    model = to_keras.convert_checkpoint(tmp_path / "m.pth", activation="gelu")
    assert_same_logits(model, reference, images(2, 3))


def training_checkpoint(weights, **others):
    """What timm's training script saves beside the weights."""
    optimizer = torch.optim.AdamW(weights.parameters(), eps=1e-3)
    return {
        "epoch": 149,
        "arch": "convmixer",
        "state_dict": weights.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.01, sched="onecycle", mean=None, aa="rand-m9"),
        "metric": np.float64(81.37),
        "amp_scaler": {"scale": 65536.0},
        "version": 2,
    } | others


@pytest.mark.parametrize("new_zip_format", [True, False])
def test_training_checkpoint_with_and_without_its_moving_average(tmp_path, new_zip_format):
    weights = torch_reference.random_model("official", *SMALL, seed=1)
    average = torch_reference.random_model("official", *SMALL, seed=2)
    path = tmp_path / "m.pth.tar"
    content = training_checkpoint(weights, state_dict_ema=average.state_dict())
    torch.save(content, path, _use_new_zipfile_serialization=new_zip_format)
    batch = images(2, 3)
    assert_same_logits(to_keras.convert_checkpoint(path, activation="gelu"), weights, batch)
    assert_same_logits(to_keras.convert_checkpoint(path, activation="gelu", ema=True), average, batch)


def test_a_moving_average_that_is_not_there(tmp_path):
    reference = torch_reference.random_model("official", *SMALL)
    torch.save(training_checkpoint(reference), tmp_path / "m.pth.tar")
    saved(tmp_path / "m.safetensors", reference)
    (tmp_path / "m.safetensors.index.json").write_text("{}")
    for name in ("m.pth.tar", "m.safetensors", "m.safetensors.index.json"):
        with pytest.raises(InputError, match="no moving average"):
            to_keras.open_checkpoint(tmp_path / name, activation="gelu", ema=True)


def test_mmpretrain_file(tmp_path):
    reference = torch_reference.random_model("mmpretrain", *SMALL, act=nn.ReLU)
    content = {"meta": {"epoch": 300, "CLASSES": ["a"]}, "state_dict": collections.OrderedDict()}
    content["state_dict"].update(reference.state_dict())
    torch.save(content, tmp_path / "m.pth")
    model = to_keras.convert_checkpoint(tmp_path / "m.pth", activation="relu")
    assert_same_logits(model, reference, images(2, 3))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types(dtype, ending, tmp_path):
    reference = torch_reference.random_model("timm", *SMALL).to(dtype)
    path = saved(tmp_path / f"m{ending}", reference)
    model = to_keras.convert_checkpoint(path, activation="gelu")
    assert_same_logits(model, reference.float(), images(2, 3))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_counters_of_batches_may_be_absent(ending, tmp_path):
    reference = torch_reference.random_model("labml", *SMALL)
    state = {name: t for name, t in reference.state_dict().items() if "num_batches" not in name}
    (save_file if ending == ".safetensors" else torch.save)(state, tmp_path / f"m{ending}")
    model = to_keras.convert_checkpoint(tmp_path / f"m{ending}", activation="gelu")
    assert_same_logits(model, reference, images(2, 3))


ACTIVATIONS = [
    ("relu", nn.ReLU),
    ("gelu", nn.GELU),
    ("silu", nn.SiLU),
    ("relu6", nn.ReLU6),
    ("elu", nn.ELU),
    ("selu", nn.SELU),
    ("mish", nn.Mish),
    ("hard_silu", nn.Hardswish),
    ("tanh", nn.Tanh),
]


@pytest.mark.parametrize(("name", "module"), ACTIVATIONS)
def test_activations(name, module, tmp_path):
    reference = torch_reference.random_model("timm", *SMALL, act=module)
    path = saved(tmp_path / "m.pth", reference)
    model = to_keras.convert_checkpoint(path, activation=name)
    assert_same_logits(model, reference, images(2, 3))
    # The network in PyTorch that conversions are verified with.
    found = network.outputs(to_keras.open_checkpoint(path, activation=name), [images(2, 3)])
    expected = torch_reference.logits(reference, images(2, 3))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_every_activation_is_compared():
    assert {name for name, _ in ACTIVATIONS} == set(activations.RANGES)


def hollow_checkpoint(path, h, d, k, p, n=1000):
    """A timm checkpoint of any size in a few kilobytes: each tensor is one number, repeated."""
    with torch.device("meta"):
        shapes = torch_reference.Timm(h, d, k, p, n, 3, nn.GELU).state_dict()
    torch.save({name: torch.tensor(1.0).expand(tensor.shape) for name, tensor in shapes.items()}, path)
    return path


@pytest.mark.parametrize(
    ("sizes", "name", "activation"),
    [
        ((1536, 20, 9, 7), "ConvMixer1536_20", "gelu"),
        ((768, 32, 7, 7), "ConvMixer768_32", "relu"),
        ((1024, 20, 9, 14), "ConvMixer1024_20", "gelu"),
        ((768, 32, 7, 7, 37), "ConvMixer768_32", "relu"),
    ],
)
def test_published_variants_tell_their_activation(sizes, name, activation, tmp_path):
    path = hollow_checkpoint(tmp_path / "m.pth", *sizes)
    checkpoint = to_keras.open_checkpoint(path)
    assert (checkpoint.preset.name, checkpoint.activation) == (name, activation)
    assert to_keras.open_checkpoint(path, activation="silu").activation == "silu"


@pytest.mark.parametrize("sizes", [(16, 2, 3, 2), (768, 32, 9, 7), (768, 31, 7, 7), (1536, 20, 9, 8)])
def test_no_activation_is_guessed(sizes, tmp_path):
    path = hollow_checkpoint(tmp_path / "m.pth", *sizes)
    with pytest.raises(InputError, match="Give activation"):
        to_keras.open_checkpoint(path)


def test_sizes_alone_tell_no_activation(tmp_path):
    """Of tensors with names of their own; the file's name or --variant may say which network it is."""
    path = hollow_checkpoint(tmp_path / "m.pth", 768, 32, 7, 7)
    state = {key.replace("blocks", "layers"): tensor for key, tensor in torch.load(path).items()}
    torch.save(state, path)
    with pytest.raises(InputError, match=r"only of the sizes of ConvMixer768_32.* Give activation"):
        to_keras.open_checkpoint(path)
    assert to_keras.open_checkpoint(path, variant="ConvMixer768_32").activation == "relu"
    path = path.rename(tmp_path / "convmixer_768_32_finetuned.pth")
    assert to_keras.open_checkpoint(path).activation == "relu"
    state["layers.3.3.running_mean"] = torch.tensor(-0.1).expand(768)
    torch.save(state, path)
    with pytest.raises(InputError, match=r"cannot have relu.*layers\.3\.3\.running_mean .* allow elu, gelu"):
        to_keras.open_checkpoint(path)


def test_variant_that_the_checkpoint_is_not(tmp_path):
    path = hollow_checkpoint(tmp_path / "m.pth", 768, 32, 9, 7)
    message = "kernel_size is 9 in the checkpoint and 7 in ConvMixer768_32"
    with pytest.raises(InputError, match=message):
        to_keras.open_checkpoint(path, variant="ConvMixer768_32")
    with pytest.raises(InputError, match=message):  # The near miss is pointed out.
        to_keras.open_checkpoint(path)


@pytest.mark.parametrize(
    ("preset", "mean", "std"),
    [
        (presets.CONVMIXER_1024_20, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (presets.CONVMIXER_256_8, [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_published_variant_can_take_raw_pixels(preset, mean, std, tmp_path, monkeypatch):
    """With the constants of the data that the variant was trained on; variants shrunk, to be quick."""
    width, depth, kernel_size, patch_size = SMALL[:4]
    small = dataclasses.replace(
        preset, hidden_dim=width, depth=depth, kernel_size=kernel_size, patch_size=patch_size
    )
    monkeypatch.setattr(presets, "PRESETS", (small,))
    reference = torch_reference.random_model("timm", *SMALL)
    path = saved(tmp_path / "m.safetensors", reference)
    checkpoint = to_keras.open_checkpoint(path)
    record = checkpoint.preprocessing()
    model = to_keras.build(checkpoint, (record.mean, record.std))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 18, 18, 3)).astype(np.float32)
    normalized = (pixels / 255 - mean) / std
    expected = torch_reference.logits(reference, normalized.astype(np.float32))
    np.testing.assert_allclose(logits(model, pixels), expected, rtol=0, atol=1e-4)


def features(reference, batch):
    reference.head = nn.Identity()
    return torch_reference.logits(reference, batch)


def test_new_classifier_on_the_old_body(tmp_path):
    reference = torch_reference.random_model("timm", *SMALL)
    path = saved(tmp_path / "m.pth", reference)
    checkpoint = to_keras.open_checkpoint(path, activation="gelu", include_top=False)
    model = to_keras.build(checkpoint, classes=4)
    batch = images(2, 3)
    assert logits(model, batch).shape == (2, 4)
    body = keras.Model(model.inputs, model.get_layer("pool").output)
    np.testing.assert_allclose(logits(body, batch), features(reference, batch), rtol=0, atol=1e-4)


@pytest.mark.parametrize("with_head", [True, False])
def test_without_top_the_checkpoint_needs_no_classifier(with_head, tmp_path):
    reference = torch_reference.random_model("official", *SMALL)
    state = reference.state_dict()
    if not with_head:
        del state["7.weight"], state["7.bias"]
    torch.save(state, tmp_path / "m.pth")
    checkpoint = to_keras.open_checkpoint(tmp_path / "m.pth", activation="gelu", include_top=False)
    model = to_keras.build(checkpoint, pooling=None)
    batch = images(2, 3)
    expected = torch_reference.logits(reference[:5], batch).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(logits(model, batch), expected, rtol=0, atol=1e-4)


def test_converted_weights_load_into_a_model_without_top(tmp_path, convmixer_convert):
    reference = torch_reference.random_model("timm", *SMALL)
    path = saved(tmp_path / "m.pth", reference)
    out = tmp_path / "m.weights.h5"
    assert convmixer_convert(path, out, "--activation", "gelu").code == 0
    model = ck.ConvMixer(
        16, 2, 3, 2, include_top=False, pooling="avg", input_shape=(None, None, 3), weights=out
    )
    batch = images(2, 3)
    np.testing.assert_allclose(logits(model, batch), features(reference, batch), rtol=0, atol=1e-4)


# Runs commands one after the other, and prints how each ended.
BLOCKED_TORCH = """
import contextlib, io, json, sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, NotInstalled())
from convmixer_keras.utils import command_line
from convmixer_keras.commands import convert as torch_command
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command_line.run(lambda: torch_command.main(arguments))
    except SystemExit as ended:
        print("outcome", json.dumps([ended.code, out.getvalue(), err.getvalue()]))
"""


def test_a_checkpoint_in_parts(tmp_path, convmixer_convert):
    reference = torch_reference.random_model("timm", *SMALL)
    tensors, where = reference.state_dict(), {}
    for number in (1, 2):
        part = {name: tensor for i, (name, tensor) in enumerate(tensors.items()) if i % 2 == number - 1}
        where |= dict.fromkeys(part, f"model-0000{number}-of-00002.safetensors")
        save_file(part, tmp_path / f"model-0000{number}-of-00002.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    done = convmixer_convert(index, tmp_path / "m.keras", "--activation", "gelu")
    assert done.code == 0, done.stderr
    assert_same_logits(keras.saving.load_model(tmp_path / "m.keras"), reference, images(2, 3))
    # A tensor is taken from the part that the index names, whatever else is in the others.
    stale = load_file(tmp_path / "model-00002-of-00002.safetensors") | {
        name: tensor + 9 for name, tensor in tensors.items() if where[name].startswith("model-00001")
    }
    save_file(stale, tmp_path / "model-00002-of-00002.safetensors")
    assert convmixer_convert(index, tmp_path / "m.keras", "--activation", "gelu").code == 0
    assert_same_logits(keras.saving.load_model(tmp_path / "m.keras"), reference, images(2, 3))
    refused = convmixer_convert(tmp_path / "model-00001-of-00002.safetensors", tmp_path / "m.keras")
    assert refused.code == 2
    assert "is one part of a checkpoint: give their index, " in refused.stderr
    for text in ("{", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        with pytest.raises(InputError, match="is no index of the parts"):
            to_keras.open_checkpoint(index)
    index.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(InputError, match=r"model-00001-of-00002\.safetensors has no tensor a, which"):
        to_keras.open_checkpoint(index)
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(InputError, match=r"there is no file .*gone\.safetensors"):
        to_keras.open_checkpoint(index)


@pytest.mark.slow
def test_without_pytorch(tmp_path):
    """safetensors go both ways; pickled files say what they need."""
    reference = torch_reference.random_model("timm", *SMALL)
    tensors, pickled = (saved(tmp_path / f"m{ending}", reference) for ending in (".safetensors", ".pth"))
    commands = [
        [tensors, tmp_path / "m.keras", "--activation", "gelu"],
        [tmp_path / "m.keras", tmp_path / "back.safetensors", "--to", "timm"],
        [pickled, tmp_path / "p.keras", "--activation", "gelu"],
    ]
    arguments = json.dumps([list(map(str, command)) for command in commands])
    command = [sys.executable, "-c", BLOCKED_TORCH, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [
        line.removeprefix("outcome ") for line in done.stdout.splitlines() if line.startswith("outcome ")
    ]
    there, back, refused = (Outcome(*json.loads(line)) for line in lines)
    assert there.code == 0, there.stderr
    assert "not verified: PyTorch is not installed" in there.stdout
    assert_same_logits(keras.saving.load_model(tmp_path / "m.keras"), reference, images(2, 3))
    assert back.code == 0, back.stderr
    assert to_keras.open_checkpoint(tmp_path / "back.safetensors", activation="gelu")
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1)
    assert "needs PyTorch" in refused.stderr


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("layout", ["timm", "official"])
def test_there_and_back_bit_for_bit(layout, ending, tmp_path, convmixer_convert):
    model = ck.ConvMixer(16, 3, 5, 2, classes=6, input_shape=(None, None, 3), input_mean=100, input_std=50)
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.uniform(0.01, 0.1, weight.shape))
    model.save(tmp_path / "m.keras")
    out = tmp_path / f"m{ending}"
    outcome = convmixer_convert(tmp_path / "m.keras", out, "--to", layout)
    assert outcome.code == 0, outcome.stderr
    back = to_keras.convert_checkpoint(out, activation="gelu")
    assert len(back.get_weights()) == len(model.get_weights())
    for before, after in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "layout", "sizes", "activation"),
    [
        ("ConvMixer1536_20", "official", (1536, 20, 9, 7), nn.GELU),
        ("ConvMixer768_32", "timm", (768, 32, 7, 7), nn.ReLU),
        ("ConvMixer1024_20", "mmpretrain", (1024, 20, 9, 14), nn.GELU),
    ],
)
def test_published_sizes_at_224(builder, layout, sizes, activation, tmp_path):
    reference = torch_reference.random_model(layout, *sizes, 1000, act=activation)
    path = saved(tmp_path / "m.safetensors", reference)
    stated = {"variant": builder} if layout == "mmpretrain" else {}  # Its names alone do not say.
    model = to_keras.convert_checkpoint(path, **stated)
    assert model.name == builder
    batch = np.random.default_rng(1).standard_normal((1, 224, 224, 3), np.float32)
    difference = np.abs(logits(model, batch) - torch_reference.logits(reference, batch)).max()
    print(f"{builder}: largest logit difference {difference:.2e}")
    assert_same_logits(model, reference, batch)


@pytest.mark.slow
def test_timm_opens_what_is_written_for_it(tmp_path, convmixer_convert):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # Made for another PyTorch; ConvMixer uses none of its operations.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    timm = pytest.importorskip("timm")
    model = ck.ConvMixer768_32(classes=7, input_shape=(None, None, 3))
    ck.save_model(model, tmp_path / "m.keras")
    outcome = convmixer_convert(tmp_path / "m.keras", tmp_path / "m.safetensors", "--to", "timm")
    assert outcome.code == 0, outcome.stderr
    # Strict: it raises where a tensor is missing or left over.
    theirs = timm.create_model(
        "convmixer_768_32", num_classes=7, checkpoint_path=str(tmp_path / "m.safetensors")
    )
    batch = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)
    expected = torch_reference.logits(theirs.eval(), batch)  # About +-0.05: the classifier is fresh.
    np.testing.assert_allclose(logits(model, batch), expected, rtol=0, atol=1e-6)
