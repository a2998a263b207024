"""`convmixer-convert`: what it prints, what it refuses, and that a refusal leaves every file as it was."""

import dataclasses
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import torch
import torch_reference
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import convmixer_keras as ck
from convmixer_keras.commands import predict
from convmixer_keras.convert.weights import recognition, to_keras
from convmixer_keras.images import preprocessing
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets

SMALL = (16, 2, 3, 2, 10, 3)


@pytest.fixture
def reference():
    return torch_reference.random_model("timm", *SMALL)


@pytest.fixture
def checkpoint(reference, tmp_path):
    torch.save(reference.state_dict(), tmp_path / "m.pth")
    return tmp_path / "m.pth"


def files_under(folder):
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(convmixer_convert, tmp_path, *arguments):
    """Asserts that the command refuses in one line and changes nothing; returns the line."""
    before = files_under(tmp_path)
    outcome = convmixer_convert(*arguments)
    assert outcome.code == 2, outcome
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("error: ")
    assert "wrote" not in outcome.stdout
    assert files_under(tmp_path) == before
    return lines[0]


def test_it_verifies_and_writes(checkpoint, reference, tmp_path, convmixer_convert):
    outcome = convmixer_convert(checkpoint, tmp_path / "m.keras", "--activation", "gelu")
    assert outcome.code == 0
    assert outcome.stderr == ""
    assert re.search(r"timm layout, ConvMixer-16/2, kernel 3, patch 2, .* 10 classes, gelu", outcome.stdout)
    found = re.search(r"logit difference (\S+) .*, same top-1 on 2 of 2", outcome.stdout)
    assert float(found[1]) < 1e-4
    batch = np.random.default_rng(0).standard_normal((2, 20, 20, 3), np.float32)
    model = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(
        model.predict(batch, verbose=0), torch_reference.logits(reference, batch), rtol=0, atol=1e-4
    )
    assert sorted(os.listdir(tmp_path)) == ["m.keras", "m.pth"]


NORMALIZED = ("--mean", "0.5", "0.4", "0.3", "--std", "0.2", "--image-size", "40")


@pytest.mark.parametrize(
    "flags", [("--include-preprocessing", *NORMALIZED), NORMALIZED, ("--image-size", "40")]
)
def test_it_verifies_on_a_folder_of_images(flags, checkpoint, tmp_path, image_folder, convmixer_convert):
    outcome = convmixer_convert(
        checkpoint, tmp_path / "m.keras", "--activation", "gelu", "--images", image_folder / "val", *flags
    )
    assert outcome.code == 0, outcome.stderr
    assert "15 images" in outcome.stdout
    assert "same top-1 on 15 of 15" in outcome.stdout


def test_it_verifies_on_real_photographs(checkpoint, tmp_path, imagenet_photos, convmixer_convert):
    (tmp_path / "photographs").mkdir()
    for path in imagenet_photos[:6]:
        (tmp_path / "photographs" / path.name).symlink_to(path)
    out = tmp_path / "m.keras"
    outcome = convmixer_convert(checkpoint, out, "--activation", "gelu", "--images", tmp_path / "photographs")
    assert outcome.code == 0, outcome.stderr
    assert "same top-1 on 6 of 6" in outcome.stdout


def test_no_verify_says_nothing_of_agreement(checkpoint, tmp_path, convmixer_convert):
    out = tmp_path / "m.weights.h5"
    outcome = convmixer_convert(checkpoint, out, "--activation", "gelu", "--no-verify")
    assert outcome.code == 0
    assert "verified" not in outcome.stdout
    ck.ConvMixer(16, 2, 3, 2, classes=10, weights=out)


def test_disagreement_fails_and_leaves_no_output(reference, tmp_path, convmixer_convert, monkeypatch):
    build = to_keras.build

    def wrong(*arguments):
        model = build(*arguments)
        model.get_layer("block0_depthwise").bias.assign_add([0.01] * 16)
        return model

    monkeypatch.setattr(to_keras, "build", wrong)
    torch.save(reference.state_dict(), tmp_path / "m.pth")
    (tmp_path / "old.keras").write_bytes(b"what was here before")
    for name in ("new.keras", "old.keras"):
        before = files_under(tmp_path)
        outcome = convmixer_convert(tmp_path / "m.pth", tmp_path / name, "--activation", "gelu")
        assert outcome.code == 1
        assert re.fullmatch(
            r"error: Keras and PyTorch differ by \S+ of the largest output, over 0.0001: .*\n", outcome.stderr
        )
        assert files_under(tmp_path) == before


def test_new_classifier(checkpoint, tmp_path, convmixer_convert):
    outcome = convmixer_convert(
        checkpoint, tmp_path / "m.keras", "--activation", "gelu", "--classes", 3, "--include-preprocessing",
        *NORMALIZED,
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert "largest feature difference" in outcome.stdout
    assert keras.saving.load_model(tmp_path / "m.keras").output_shape == (None, 3)


def test_no_top(checkpoint, tmp_path, convmixer_convert):
    out = tmp_path / "m.keras"
    assert convmixer_convert(checkpoint, out, "--activation", "gelu", "--no-top").code == 0
    assert keras.saving.load_model(out).output_shape == (None, None, None, 16)


def test_keras_model_with_pixels_in_and_probabilities_out(tmp_path, convmixer_convert):
    ck.ConvMixer(
        8,
        2,
        3,
        2,
        classes=5,
        input_shape=(16, 16, 3),
        input_mean=120,
        input_std=60,
        classifier_activation="softmax",
    ).save(tmp_path / "m.keras")
    outcome = convmixer_convert(tmp_path / "m.keras", tmp_path / "m.safetensors", "--to", "timm")
    assert outcome.code == 0, outcome.stderr
    assert "left out: softmax of the scores" in outcome.stdout
    assert "the input's normalisation is left out" in outcome.stdout
    assert "16 x 16, against PyTorch: largest logit difference" in outcome.stdout


def test_written_files_are_as_readable_as_others(tmp_path, convmixer_convert):
    ck.ConvMixer(8, 1, 3, 2, classes=5, input_shape=(16, 16, 3)).save(tmp_path / "m.keras")
    (tmp_path / "other").touch()
    for name in ("m.safetensors", "m.pth"):
        assert convmixer_convert(tmp_path / "m.keras", tmp_path / name, "--to", "timm").code == 0
        assert (tmp_path / name).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_installed_module_runs():
    command = [sys.executable, "-m", "convmixer_keras.commands.convert", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "convmixer-convert" in done.stdout


class Planted:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("place", ["whole", "entry", "weights", "plain pickle", "old pickle"])
@pytest.mark.parametrize("ending", [".pth", ".bin"])
def test_code_in_a_pickle_does_not_run(place, ending, reference, tmp_path, convmixer_convert):
    planted = Planted(str(tmp_path / "planted"))
    path = tmp_path / f"m{ending}"
    if place == "whole":
        torch.save(planted, path)
    elif place == "entry":
        torch.save({"state_dict": reference.state_dict(), "args": planted}, path)
    elif place == "weights":
        torch.save(reference.state_dict() | {"head.weight": planted}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": planted}, protocol=2 if place == "old pickle" else 4))
    refused(convmixer_convert, tmp_path, path, tmp_path / "m.keras", "--activation", "gelu")
    assert not (tmp_path / "planted").exists()


def test_a_pickled_module_is_named(reference, tmp_path, convmixer_convert):
    torch.save(reference, tmp_path / "m.pth")
    line = refused(convmixer_convert, tmp_path, tmp_path / "m.pth", tmp_path / "m.keras")
    assert "torch_reference.Timm" in line
    assert "state_dict()" in line


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_files(kept, ending, reference, tmp_path, convmixer_convert):
    path = tmp_path / f"m{ending}"
    (torch.save if ending == ".pth" else save_file)(reference.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    out = tmp_path / "m.keras"
    out.write_bytes(b"what was here before")
    line = refused(convmixer_convert, tmp_path, path, out, "--activation", "gelu")
    assert str(path) in line


def test_truncated_file_of_the_old_format(reference, tmp_path, convmixer_convert):
    path = tmp_path / "m.pth"
    torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in (0.1, 0.5, 0.95):
        path.write_bytes(whole[: int(kept * len(whole))])
        refused(convmixer_convert, tmp_path, path, tmp_path / "m.keras", "--activation", "gelu")


def test_a_flipped_bit_in_a_pickled_file(reference, tmp_path, convmixer_convert):
    path = tmp_path / "m.pth"
    torch.save(reference.state_dict(), path)
    content = bytearray(path.read_bytes())
    weight = reference.blocks[1][1].weight.detach().numpy().tobytes()
    content[content.index(weight) + 100] ^= 1
    path.write_bytes(content)
    line = refused(convmixer_convert, tmp_path, path, tmp_path / "m.keras", "--activation", "gelu")
    assert "damaged" in line


@pytest.mark.parametrize("name", ["m.pth.tar", "m.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"hello\n" * 50, b"\x00" * 1000, b"PK\x03\x04 not a zip", b"\x80\x02."]
)
def test_files_that_are_no_checkpoints(content, name, tmp_path, convmixer_convert):
    (tmp_path / name).write_bytes(content)
    refused(convmixer_convert, tmp_path, tmp_path / name, tmp_path / "m.keras")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state_dict": {}},
        {"epoch": 3},
        [torch.ones(3)],
        torch.ones(3),
        {"conv1.weight": torch.ones(64, 3, 7, 7)},
        {"0.weight": torch.ones(16, 3, 2, 2), "0.bias": torch.ones(16)},
        {"state_dict": {"stem.0.weight": "text"}},
        {"blocks.99999999999999999999.0.fn.0.weight": torch.ones(4, 1, 3, 3)},
        {"blocks.99999.0.fn.0.weight": torch.ones(4, 1, 3, 3)},
        {1: torch.ones(3)},
    ],
    ids=lambda content: str(content)[:40],
)
def test_checkpoints_of_something_else(content, tmp_path, convmixer_convert):
    torch.save(content, tmp_path / "m.pth")
    refused(convmixer_convert, tmp_path, tmp_path / "m.pth", tmp_path / "m.keras", "--activation", "gelu")


@pytest.mark.parametrize("layout", torch_reference.LAYOUTS)
def test_each_missing_tensor_is_named(layout):
    """Also those that sizes are told from."""
    state = torch_reference.random_model(layout, *SMALL).state_dict()
    for name in state:
        if "num_batches_tracked" in name:
            continue
        rest = {other: state[other] for other in state if other != name}
        with pytest.raises(ValueError, match=rf"lacks {re.escape(name)} "):
            recognition.recognise(rest, "m.pth")


@pytest.mark.parametrize("layout", torch_reference.LAYOUTS)
def test_each_misshapen_tensor_is_named_with_both_shapes(layout):
    state = torch_reference.random_model(layout, *SMALL).state_dict()
    for name, tensor in state.items():
        if "num_batches_tracked" in name:
            continue
        wrong = torch.ones(tensor.shape[0] + 1, *tensor.shape[1:])
        with pytest.raises(ValueError, match=re.escape(name.rpartition(".")[0])) as error:
            recognition.recognise(state | {name: wrong}, "m.pth")
        assert str(len(wrong)) in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"blocks.0.4.weight": torch.ones(7)}, ["no other tensors, found blocks.0.4.weight", "--ignore"]),
        ({"blocks.1.3.running_var": None}, ["lacks blocks.1.3.running_var"]),
        (
            {"blocks.1.1.weight": torch.ones(16, 8, 1, 1)},
            ["blocks.1.1 (16, 8, 1, 1)"],
        ),
        (
            {"blocks.1.0.fn.0.weight": torch.ones(16, 1, 3, 5)},
            ["blocks.1.0.fn.0", "(16, 1, 3, 5)", "(16, 1, 3, 3)"],
        ),
        ({"stem.0.weight": torch.ones(16, 3, 2, 4)}, ["stem.0.weight", "(16, 3, 2, 4)", "(16, 3, 4, 4)"]),
        ({"head.bias": torch.ones(9)}, ["head.bias", "(10,)", "(9,)"]),
        ({"head.bias": torch.tensor(1.0)}, ["no other tensors", "head.weight"]),
        ({"stem.0.bias": torch.full((16,), torch.nan)}, ["stem.0.bias", "NaN or infinite"]),
        ({"head.weight": torch.full((10, 16), -torch.inf)}, ["head.weight", "NaN or infinite"]),
        (
            {"head.weight": torch.full((10, 16), 1e39, dtype=torch.float64)},
            ["head.weight", "NaN or infinite"],
        ),
        ({"stem.2.running_var": torch.full((16,), -1.0)}, ["stem.2.running_var", "negative"]),
        ({"stem.0.bias": torch.ones(16, dtype=torch.int64)}, ["stem.0.bias", "floating-point"]),
        ({"stem.0.bias": torch.ones(16, dtype=torch.complex64)}, ["stem.0.bias", "floating-point"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_broken_tensors(change, expected, ending, reference, tmp_path, convmixer_convert):
    state = {name: t for name, t in (reference.state_dict() | change).items() if t is not None}
    path = tmp_path / f"m{ending}"
    (torch.save if ending == ".pth" else save_file)(state, path)
    (tmp_path / "old.keras").write_bytes(b"what was here before")
    line = refused(convmixer_convert, tmp_path, path, tmp_path / "old.keras", "--activation", "gelu")
    for words in expected:
        assert words in line


def test_unknown_activation_is_asked_for(checkpoint, tmp_path, convmixer_convert):
    line = refused(convmixer_convert, tmp_path, checkpoint, tmp_path / "m.keras")
    assert "--activation" in line


def test_checkpoint_that_is_not_the_variant(checkpoint, tmp_path, convmixer_convert):
    line = refused(
        convmixer_convert, tmp_path, checkpoint, tmp_path / "m.keras", "--variant", "ConvMixer768_32"
    )
    assert "kernel_size is 3 in the checkpoint and 7 in ConvMixer768_32" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{dir}/none.pth", "{dir}/m.keras"), "there is no file"),
        (("{dir}", "{dir}/m.keras"), "is a folder"),
        (("{dir}/m.pth", "{dir}/m.h5"), ".weights.h5"),
        (("{dir}/m.pth", "{dir}/m.safetensors"), "--to timm"),
        (("{dir}/m.txt", "{dir}/m.keras"), "not a PyTorch checkpoint"),
        (("{dir}/m.pth", "{dir}/none/m.keras"), "cannot write"),
        (("{dir}/m.pth", "{dir}/folder.keras"), "cannot write"),
        (("{dir}/m.pth", "/proc/m.keras"), "cannot write"),
        (("{dir}/m.pth", "{dir}/m.pth/m.keras"), "cannot write"),
        (("{dir}/m.pth", "{dir}/m.keras", "--ema"), "moving average"),
        (("{dir}/m.pth", "{dir}/m.keras", "--image-size", "1"), "patch size"),
        (("{dir}/m.pth", "{dir}/m.keras", "--classes", "3", "--no-top"), "--no-top"),
        (("{dir}/m.pth", "{dir}/m.keras", "--images", "{dir}/none"), "there is no folder"),
        (("{dir}/m.pth", "{dir}/m.keras", "--images", "{dir}"), "no images"),
        (("{dir}/m.pth", "{dir}/m.keras", "--images", "{dir}", "--no-verify"), "--no-verify"),
        (("{dir}/m.pth", "{dir}/m2.pth", "--to", "timm"), ".keras"),
        (("{dir}/none.keras", "{dir}/m.pth"), "--to timm"),
        (("{dir}/none.keras", "{dir}/m2.pth", "--to", "timm"), "there is no file"),
        (("{dir}/bad.keras", "{dir}/m2.pth", "--to", "timm"), "bad.keras"),
        (("{dir}/none.keras", "{dir}/m2.txt", "--to", "timm"), ".safetensors"),
        (("{dir}/none.keras", "{dir}/m2.pth", "--to", "timm", "--classes", "3"), "--classes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_use(arguments, words, checkpoint, tmp_path, convmixer_convert):
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "m.txt").write_text("no weights")
    (tmp_path / "bad.keras").write_bytes(b"not a zip")
    arguments = [argument.format(dir=tmp_path) for argument in arguments]
    activation = () if "--to" in arguments else ("--activation", "gelu")
    assert words in refused(convmixer_convert, tmp_path, *arguments, *activation)


def test_keras_model_of_something_else(tmp_path, convmixer_convert):
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs)).save(tmp_path / "m.keras")
    line = refused(
        convmixer_convert, tmp_path, tmp_path / "m.keras", tmp_path / "m.safetensors", "--to", "official"
    )
    assert "not a ConvMixer" in line


def test_checkpoint_without_sums(reference, tmp_path, convmixer_convert):
    """PyTorch can leave the checksums of the archive out; that is not damage."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(reference.state_dict(), tmp_path / "m.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        assert {entry.CRC for entry in archive.infolist()} == {0}
    assert convmixer_convert(tmp_path / "m.pth", tmp_path / "m.keras", "--activation", "gelu").code == 0


def test_imagenet_classifiers_get_their_names(tmp_path, convmixer_convert, monkeypatch):
    """On a published variant, shrunk."""
    import dataclasses

    from convmixer_keras.models import presets

    small = dataclasses.replace(presets.CONVMIXER_1024_20, hidden_dim=8, depth=1, kernel_size=3, patch_size=2)
    monkeypatch.setattr(presets, "PRESETS", (small,))
    torch.save(torch_reference.random_model("timm", 8, 1, 3, 2, 1000, 3).state_dict(), tmp_path / "m.pth")
    out = tmp_path / "m.keras"
    assert convmixer_convert(tmp_path / "m.pth", out, "--no-verify").code == 0
    assert ck.load_class_names(out)[207] == "golden retriever"
    assert convmixer_convert(tmp_path / "m.pth", out, "--no-verify", "--classes", 10).code == 0
    assert ck.load_class_names(out) is None


def test_labels(checkpoint, tmp_path, convmixer_convert, here):
    """From a text file of an editor on Windows; ImageNet's by their name; and what does not fit."""
    digits = b"".join(b"%d\r\n" % i for i in range(9))
    (tmp_path / "names.txt").write_bytes("\ufeffgrün\r\n".encode() + digits)
    out, labels = tmp_path / "m.keras", ("--activation", "gelu", "--labels")
    assert convmixer_convert(checkpoint, out, *labels, tmp_path / "names.txt").code == 0
    assert ck.load_class_names(out) == ["grün", *map(str, range(9))]
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "black.png")
    normalised = ("--mean", 0.5, "--std", 0.5)
    shown = here(predict.main, tmp_path / "black.png", "--model", out, "--top", 10, *normalised).stdout
    assert re.search(r"^ +\d+\.\d %  grün$", shown, re.MULTILINE)

    torch.save(torch_reference.random_model("timm", 8, 1, 3, 2, 1000, 3).state_dict(), tmp_path / "i.pth")
    assert convmixer_convert(tmp_path / "i.pth", out, *labels, "imagenet").code == 0
    assert ck.load_class_names(out)[207] == "golden retriever"

    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    for arguments, message in (
        ((checkpoint, out, *labels, "imagenet"), "--labels must be 10, one for each class, got 1000"),
        ((checkpoint, out, *labels, tmp_path / "gap.txt"), "line 2 is empty"),
        ((checkpoint, out, *labels, "none.txt"), "there is no file none.txt"),
        ((checkpoint, out, *labels, "imagenet", "--no-top"), "--labels is not allowed with --no-top"),
        ((checkpoint, tmp_path / "m.weights.h5", *labels, "imagenet"), "recorded in a .keras file"),
        ((out, tmp_path / "m.pth", "--to", "timm", "--labels", "imagenet"), "--labels is not allowed with"),
    ):
        assert message in refused(convmixer_convert, tmp_path, *arguments)
    names = ("--labels", tmp_path / "names.txt", "--classes", 10)
    assert convmixer_convert(tmp_path / "i.pth", out, "--activation", "gelu", *names).code == 0
    assert ck.load_class_names(out)[0] == "grün"


@pytest.mark.parametrize("variant", ["CONVMIXER_1024_20", "CONVMIXER_256_8"])
def test_a_published_variant_keeps_its_evaluation(variant, tmp_path, convmixer_convert, monkeypatch):
    """Shrunk. A CIFAR-10 network has CIFAR-10's constants, in conversion and verification."""
    expected = {
        "CONVMIXER_1024_20": Preprocessing(
            224, 3, 0.96, "bicubic", "stored", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        ),
        "CONVMIXER_256_8": Preprocessing(
            32, 3, 1.0, "bicubic", "stored", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
        ),
    }[variant]
    small = dataclasses.replace(getattr(presets, variant), hidden_dim=8, depth=1, kernel_size=3, patch_size=2)
    monkeypatch.setattr(presets, "PRESETS", (small,))
    torch.save(torch_reference.random_model("timm", 8, 1, 3, 2, 10, 3).state_dict(), tmp_path / "m.pth")
    out = tmp_path / "m.keras"
    assert convmixer_convert(tmp_path / "m.pth", out, "--no-verify").code == 0
    assert preprocessing.of(out) == expected
    outcome = convmixer_convert(tmp_path / "m.pth", out, "--include-preprocessing")
    assert outcome.code == 0, outcome.stderr
    assert preprocessing.of(out) == dataclasses.replace(expected, mean=None, std=None)
    normalization = keras.saving.load_model(out).get_layer("input_normalization")
    np.testing.assert_allclose(np.ravel(normalization.mean), 255 * np.array(expected.mean), rtol=1e-6)
    assert convmixer_convert(tmp_path / "m.pth", out, "--crop-pct", "0.5", "--image-size", "64").code == 0
    assert preprocessing.of(out) == dataclasses.replace(expected, crop_pct=0.5, size=64)


def test_other_networks_are_not_called_imagenets(checkpoint, tmp_path, convmixer_convert):
    line = refused(convmixer_convert, tmp_path, checkpoint, tmp_path / "m.keras", "--activation", "gelu",
                   "--include-preprocessing")  # fmt: skip
    assert "give --mean and --std" in line
    assert convmixer_convert(checkpoint, tmp_path / "m.keras", "--activation", "gelu").code == 0
    assert preprocessing.of(tmp_path / "m.keras") is None


@pytest.mark.parametrize("layout", ["timm", "official"])
def test_what_goes_out_comes_back(layout, tmp_path, convmixer_convert):
    """The activation and how photographs are turned, for which timm has no key."""
    model = ck.ConvMixer(8, 1, 3, 2, classes=4, input_shape=(16, 16, 3), activation="relu")
    record = Preprocessing(16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), orientation="exif")
    ck.save_model(model, tmp_path / "m.keras", preprocessing=record)
    assert convmixer_convert(tmp_path / "m.keras", tmp_path / "m.safetensors", "--to", layout).code == 0
    back = convmixer_convert(tmp_path / "m.safetensors", tmp_path / "back.keras")
    assert back.code == 0, back.stderr
    assert ", relu" in back.stdout
    assert preprocessing.of(tmp_path / "back.keras") == record
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    again = keras.saving.load_model(tmp_path / "back.keras")
    np.testing.assert_allclose(again(images), model(images), rtol=0, atol=1e-6)
    line = refused(convmixer_convert, tmp_path, tmp_path / "m.safetensors", tmp_path / "o.keras",
                   "--activation", "gelu")  # fmt: skip
    assert "states the activation relu, got gelu" in line


def test_a_published_name_is_of_its_activation(tmp_path, monkeypatch, convmixer_convert):
    """A network of a variant's sizes with another activation is not that variant to timm."""
    small = dataclasses.replace(
        presets.CONVMIXER_1024_20, hidden_dim=8, depth=1, kernel_size=3, patch_size=2, classes=4
    )
    monkeypatch.setattr(presets, "PRESETS", (small,))
    for activation in ("gelu", "relu"):
        model = ck.ConvMixer(8, 1, 3, 2, classes=4, input_shape=(16, 16, 3), activation=activation)
        model.save(tmp_path / "m.keras")
        out = tmp_path / f"{activation}.safetensors"
        assert convmixer_convert(tmp_path / "m.keras", out, "--to", "timm", "--no-verify").code == 0
        with safe_open(out, "np") as file:
            config = json.loads(file.metadata()["pretrained_cfg"])
        assert ("architecture" in config) == (activation == "gelu")


def test_a_network_that_divides_by_more_than_255(tmp_path, image_folder, convmixer_convert):
    inputs = keras.Input((16, 16, 3))
    body = ck.ConvMixer(8, 1, 3, 2, classes=4, input_shape=(16, 16, 3))
    other = keras.Model(inputs, body(keras.layers.Rescaling(1 / 256)(inputs)), name="other")
    other.save(tmp_path / "other.keras")
    flags = ("--images", image_folder / "val")
    done = convmixer_convert(tmp_path / "other.keras", tmp_path / "m.keras", *flags)
    assert done.code == 0, done.stderr
    assert "same top-1 on 15 of 15" in done.stdout
    done = convmixer_convert(tmp_path / "m.keras", tmp_path / "m.safetensors", "--to", "timm")
    assert done.code == 0, done.stderr
    assert convmixer_convert(tmp_path / "m.safetensors", tmp_path / "back.keras").code == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--crop-pct", 0.9, "--image-size", 16), "give --mean and --std with --crop-pct"),
        (("--mean", 0.5, "--std", 0.2), "how large the images of .* are: give --image-size"),
        (("--reference", ""), "there is no file"),
    ],
)
def test_flags_of_photographs_are_not_dropped(flags, words, checkpoint, tmp_path, convmixer_convert):
    out = tmp_path / "m.keras"
    assert re.search(
        words, refused(convmixer_convert, tmp_path, checkpoint, out, "--activation", "gelu", *flags)
    )


def timms_config_class():
    """timm's own, from its one file: all of timm needs a torchvision built for the PyTorch installed."""
    package = importlib.util.find_spec("timm").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("_pretrained", f"{package}/models/_pretrained.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Dataclasses look for their module.
    spec.loader.exec_module(module)
    return module.PretrainedCfg


@pytest.mark.parametrize("raw_pixels", [True, False])
def test_timm_is_told_how_to_prepare_photographs(raw_pixels, tmp_path, convmixer_convert):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm")
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    record = Preprocessing(48, 3, 0.9, "bilinear", "stored")
    statistics = {"input_mean": [255 * m for m in mean], "input_std": [255 * s for s in std]}
    if not raw_pixels:
        statistics, record = {}, dataclasses.replace(record, mean=mean, std=std)
    model = ck.ConvMixer(8, 1, 3, 2, classes=4, input_shape=(48, 48, 3), **statistics)
    ck.save_model(model, tmp_path / "m.keras", preprocessing=record)
    out = tmp_path / "m.safetensors"
    assert convmixer_convert(tmp_path / "m.keras", out, "--to", "timm", "--no-verify").code == 0
    with safe_open(out, "np") as file:
        config = timms_config_class()(**json.loads(file.metadata()["pretrained_cfg"]))
    assert config.num_classes == 4
    assert list(config.input_size) == [3, 48, 48]
    assert (config.crop_pct, config.crop_mode, config.interpolation) == (0.9, "center", "bilinear")
    np.testing.assert_allclose(config.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(config.std, std, rtol=1e-6)
    back = tmp_path / "back.keras"
    outcome = convmixer_convert(out, back, "--activation", "gelu", "--no-verify")
    assert outcome.code == 0, outcome.stderr
    returned = preprocessing.of(back)
    np.testing.assert_allclose(returned.mean, mean, rtol=1e-6)
    assert dataclasses.replace(returned, mean=None, std=None) == dataclasses.replace(
        record, mean=None, std=None
    )


def test_what_a_weights_file_cannot_keep_is_refused(checkpoint, tmp_path, convmixer_convert):
    out = tmp_path / "m.weights.h5"
    flags = ("--activation", "gelu", "--crop-pct", 0.9, "--image-size", 16, "--mean", 0.5, "--std", 0.2)
    line = refused(convmixer_convert, tmp_path, checkpoint, out, *flags)
    assert re.search("what --(crop-pct|mean) says is recorded in a .keras file, and not in .*h5", line)


def test_a_classifier_of_zeros_verifies_nothing(reference, tmp_path, convmixer_convert):
    torch.nn.init.zeros_(reference.head.weight)
    torch.save(reference.state_dict(), tmp_path / "m.pth")
    done = convmixer_convert(tmp_path / "m.pth", tmp_path / "m.keras", "--activation", "gelu")
    assert done.code == 0, done.stderr
    assert "not verified on 2 random images" in done.stdout
    assert "these logits are the same for every image" in done.stdout


def test_a_reference_of_one_patch_leaves_something_open(reference, checkpoint, tmp_path, convmixer_convert):
    for side, told in ((2, True), (4, False), (5, False)):
        inputs = torch.randn(3, 3, side, side)
        with torch.no_grad():
            np.savez(tmp_path / "r.npz", inputs=inputs, logits=reference.eval()(inputs))
        flags = ("--activation", "gelu", "--reference", tmp_path / "r.npz")
        done = convmixer_convert(checkpoint, tmp_path / "m.keras", *flags)
        assert done.code == 0, done.stderr
        assert ("not covered, as inputs have one patch: padding, pooling" in done.stdout) == told


def test_a_channel_without_variance(tmp_path, convmixer_convert):
    """With a smaller epsilon than PyTorch's, its variance would be below zero there."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 2, strides=2, activation="relu")(image)
    x = keras.layers.BatchNormalization(epsilon=1e-6)(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = keras.layers.Add()([x, keras.layers.BatchNormalization(epsilon=1e-6)(y)])
    x = keras.layers.Conv2D(8, 1, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization(epsilon=1e-6)(x))
    model = keras.Model(image, keras.layers.Dense(4)(x))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign([0, 1e-6, *[1.0] * 6])
    model.save(tmp_path / "m.keras")
    assert convmixer_convert(tmp_path / "m.keras", tmp_path / "o.keras").code == 0
    done = convmixer_convert(tmp_path / "o.keras", tmp_path / "o.safetensors", "--to", "timm")
    assert done.code == 0, done.stderr
    assert convmixer_convert(tmp_path / "o.safetensors", tmp_path / "back.keras").code == 0
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    expected, got = (
        keras.saving.load_model(tmp_path / name).predict(images, verbose=0)
        for name in ("m.keras", "back.keras")
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
