"""`weights="imagenet"` over real HTTP, from a server on loopback; `weights="cifar10"` from the package."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import socket
import tarfile
import time

import h5py
import keras
import numpy as np
import pytest
import torch
import torch_reference
from conftest import CIFAR10, ROOT, SHARED_DATA
from hub_server import hub  # noqa: F401
from PIL import Image
from safetensors.torch import save_file

import convmixer_keras as ck
from convmixer_keras import pretrained
from convmixer_keras.commands import predict
from convmixer_keras.models import presets
from convmixer_keras.utils.errors import InputError

# A published variant, shrunk.
SMALL = dataclasses.replace(
    presets.CONVMIXER_768_32, hidden_dim=8, depth=2, kernel_size=3, patch_size=2, classes=10
)
HUB_FILE = "/timm/convmixer_768_32.in1k/resolve/main/model.safetensors"
RELEASE_FILE = "/releases/convmixer_768_32_ks7_p7_relu.pth.tar"


@pytest.fixture
def server(hub, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(pretrained, "RELEASES", f"{hub.address}/releases")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return hub


def reference_of(preset, seed=0):
    return torch_reference.random_model(
        "timm",
        preset.hidden_dim,
        preset.depth,
        preset.kernel_size,
        preset.patch_size,
        preset.classes,
        act=torch.nn.ReLU,
        seed=seed,
    )


def safetensors_bytes(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "served")
    return (tmp_path / "served").read_bytes()


def small_model(**arguments):
    return ck.ConvMixer(
        8, 2, 3, 2, activation="relu", **{"classes": 10, "input_shape": (None, None, 3)} | arguments
    )


def assert_has_weights_of(model, reference):
    batch = np.random.default_rng(0).standard_normal((2, 18, 18, 3), np.float32)
    outputs = keras.ops.convert_to_numpy(model(batch, training=False))
    np.testing.assert_allclose(outputs, torch_reference.logits(reference, batch), rtol=0, atol=1e-4)


def cached():
    folder = pathlib.Path(pretrained.cache_folder())
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


CONVERTED = ["convmixer_768_32.in1k.json", "convmixer_768_32.in1k.weights.h5"]


def test_fetched_and_converted_once(server, tmp_path, capsys):
    reference = reference_of(SMALL)
    body = safetensors_bytes(reference, tmp_path)
    server.files[HUB_FILE] = (200, {}, body)
    for _ in range(2):
        model = small_model()
        pretrained.load_published_weights(model, SMALL)
        assert_has_weights_of(model, reference)
    assert server.asked == [HUB_FILE]
    assert cached() == CONVERTED

    sha256 = hashlib.sha256(body).hexdigest()
    printed = capsys.readouterr().out
    assert sha256 in printed
    folder = pathlib.Path(pretrained.cache_folder())
    assert str(folder).startswith(str(tmp_path / "keras"))
    assert json.loads((folder / CONVERTED[0]).read_text())["sha256"] == sha256


@pytest.mark.slow
def test_the_real_builder(server, tmp_path):
    reference = reference_of(presets.CONVMIXER_768_32)
    server.files[HUB_FILE] = (200, {}, safetensors_bytes(reference, tmp_path))
    model = ck.ConvMixer768_32(weights="imagenet", include_preprocessing=True, input_shape=(64, 64, 3))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    normalized = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = torch_reference.logits(reference, normalized.astype(np.float32))
    outputs = keras.ops.convert_to_numpy(model(pixels, training=False))
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4)


def test_body_alone(server, tmp_path):
    reference = reference_of(SMALL)
    server.files[HUB_FILE] = (200, {}, safetensors_bytes(reference, tmp_path))
    body = small_model(include_top=False, pooling="avg", classes=None)
    pretrained.load_published_weights(body, SMALL)
    other_classes = small_model(classes=3)
    new_head = [weight.copy() for weight in other_classes.get_layer("head").get_weights()]
    pretrained.load_published_weights(other_classes, SMALL)
    for before, after in zip(new_head, other_classes.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    inputs = keras.Input((None, None, 3))
    on_top_of_another = small_model(
        input_tensor=keras.layers.Conv2D(3, 1, name="before")(inputs), input_shape=None
    )
    pretrained.load_published_weights(on_top_of_another, SMALL)
    for model in (body, other_classes, on_top_of_another):
        for name, expected in (
            ("block1_pointwise", reference.blocks[1][1].bias),
            ("stem_bn", reference.stem[2].running_var),
        ):
            weight = model.get_layer(name).get_weights()[-1]
            np.testing.assert_array_equal(weight, expected.detach().numpy())
    reference.head = torch.nn.Identity()
    assert_has_weights_of(body, reference)


@pytest.mark.parametrize("trouble", ["absent", "garbage", "wrong network", "other hash"])
def test_the_fallback_is_used_when_the_hub_fails(trouble, server, tmp_path, capsys):
    reference = reference_of(SMALL)
    body, headers = safetensors_bytes(reference, tmp_path), {}
    if trouble == "garbage":
        body = body[:5] + bytes(len(body) - 5)
    elif trouble == "wrong network":
        body = safetensors_bytes(reference_of(dataclasses.replace(SMALL, kernel_size=5)), tmp_path)
    elif trouble == "other hash":
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        body = body[:-1] + bytes([body[-1] ^ 1])
    if trouble != "absent":
        server.files[HUB_FILE] = (200, headers, body)
    other = reference_of(SMALL, seed=5)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "served.pth.tar")
    server.files[RELEASE_FILE] = (200, {}, (tmp_path / "served.pth.tar").read_bytes())

    model = small_model()
    pretrained.load_published_weights(model, SMALL)
    assert_has_weights_of(model, other)
    assert server.asked == ([] if trouble == "absent" else [HUB_FILE]) + [RELEASE_FILE]
    assert cached() == CONVERTED


def test_a_connection_cut_in_the_middle_leaves_nothing(server, tmp_path, monkeypatch):
    body = safetensors_bytes(reference_of(SMALL), tmp_path)
    server.files[HUB_FILE] = (200, {}, body)
    server.cut = len(body) // 2
    model = small_model()
    before = model.get_weights()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # Between the library's five attempts.
    with pytest.raises(InputError, match=r"cannot fetch hf://timm/convmixer_768_32\.in1k"):
        pretrained.load_published_weights(model, SMALL)
    assert cached() == []
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

    server.cut = None  # The next attempt starts afresh.
    pretrained.load_published_weights(model, SMALL)
    assert cached() == CONVERTED


def test_the_hash_of_a_redirection_counts(server, tmp_path):
    body = safetensors_bytes(reference_of(SMALL), tmp_path)
    right, wrong = hashlib.sha256(body).hexdigest(), "0" * 64
    server.files["/storage"] = (200, {"ETag": '"something else"'}, body)
    storage = {"Location": f"{server.address.replace('127.0.0.1', 'localhost')}/storage"}
    storage["X-Linked-Size"] = len(body)
    server.files[HUB_FILE] = (302, storage | {"X-Linked-Etag": f'"{wrong}"'}, b"")
    with pytest.raises(InputError, match=f"SHA-256 is {right}, and should be {wrong}"):
        pretrained.weights_file(SMALL)
    server.files[HUB_FILE] = (302, storage | {"X-Linked-Etag": f'"{right}"'}, b"")
    pretrained.weights_file(SMALL)
    assert cached() == CONVERTED


def test_offline_the_error_says_which_file_to_put_where(server, tmp_path, monkeypatch, here):
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    monkeypatch.setattr(pretrained, "RELEASES", f"{nobody}/releases")
    with pytest.raises(InputError) as error:
        pretrained.weights_file(SMALL)
    by_hand = pathlib.Path(pretrained.cache_folder()) / "convmixer_768_32.in1k.safetensors"
    assert f"save {nobody}{HUB_FILE} as {by_hand}" in str(error.value)
    assert "\n" not in str(error.value)
    photo = ROOT / "examples" / "photos" / "dog" / "0000.jpg"
    started = time.monotonic()
    done = here(predict.main, photo, "--model", "ConvMixer1024_20")
    assert (done.code, time.monotonic() - started < 20) == (2, True)
    address = f"{nobody}/timm/convmixer_1024_20_ks9_p14.in1k/resolve/main/model.safetensors"
    file = f"{pretrained.cache_folder()}/convmixer_1024_20_ks9_p14.in1k.safetensors"
    assert "name ConvMixer256_8_P2 instead" in done.stderr
    assert done.stderr.endswith(f" save {address} as {file}\n")

    reference = reference_of(SMALL)
    by_hand.write_bytes(safetensors_bytes(reference, tmp_path))
    model = small_model()
    pretrained.load_published_weights(model, SMALL)
    assert_has_weights_of(model, reference)
    assert by_hand.exists()


def test_a_changed_cache_is_noticed_and_mended(server, tmp_path):
    reference = reference_of(SMALL)
    server.files[HUB_FILE] = (200, {}, safetensors_bytes(reference, tmp_path))
    path = pathlib.Path(pretrained.weights_file(SMALL))
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    model = small_model()
    with pytest.warns(UserWarning, match="has changed since it was written"):
        pretrained.load_published_weights(model, SMALL)
    assert_has_weights_of(model, reference)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"not JSON"])
def test_weights_without_a_record_are_made_anew(content, server, tmp_path):
    server.files[HUB_FILE] = (200, {}, safetensors_bytes(reference_of(SMALL), tmp_path))
    weights = pathlib.Path(pretrained.weights_file(SMALL))
    record = weights.parent / CONVERTED[0]
    record.unlink() if content is None else record.write_bytes(content)
    weights.write_bytes(b"of nobody knows where")
    pretrained.load_published_weights(small_model(), SMALL)
    assert server.asked == [HUB_FILE, HUB_FILE]


def test_a_changed_publication_is_noticed(server, tmp_path):
    server.files[HUB_FILE] = (200, {}, safetensors_bytes(reference_of(SMALL), tmp_path))
    weights = pathlib.Path(pretrained.weights_file(SMALL))
    weights.unlink()
    other = reference_of(SMALL, seed=9)
    server.files[HUB_FILE] = (200, {}, safetensors_bytes(other, tmp_path))
    with pytest.warns(UserWarning, match=r"convmixer_768_32\.in1k\.safetensors has changed"):
        pretrained.weights_file(SMALL)
    model = small_model(weights=weights)
    assert_has_weights_of(model, other)


@pytest.mark.parametrize("builder", [ck.ConvMixer256_8, ck.ConvMixer1536_20_P14])
def test_variants_whose_weights_are_not_published(builder, server):
    with pytest.raises(InputError, match="ConvMixer768_32"):
        builder(weights="imagenet")
    assert server.asked == []


@pytest.mark.parametrize("builder", [ck.ConvMixer256_8, ck.ConvMixer768_32])
def test_cifar10_weights_are_of_one_network(builder, server):
    with pytest.raises(InputError, match=f"'cifar10' .* ConvMixer256_8_P2, got {builder.__name__}"):
        builder(weights="cifar10")
    assert server.asked == []


def test_cifar10_weights_need_no_network(server):
    """Photographs of CIFAR-10's test split are named right; what is loaded is what the file holds."""
    model = ck.ConvMixer256_8_P2(weights="cifar10", include_preprocessing=True)
    with h5py.File(pretrained.CIFAR10_FILE) as file:
        stored = file["layers/conv2d_1/vars/0"]
        assert stored.dtype == np.float16
        np.testing.assert_array_equal(model.get_layer("block0_pointwise").get_weights()[0], stored)
    photos = sorted((ROOT / "examples" / "photos").glob("*/*.jpg"))
    pixels = np.stack([np.asarray(Image.open(path), np.float32) for path in photos])
    names = np.array(sorted({path.parent.name for path in photos}))
    found = names[model.predict(pixels, verbose=0).argmax(-1)]
    assert sum(found == [path.parent.name for path in photos]) >= 17  # Of 20.
    assert server.asked == []


@pytest.mark.slow
def test_cifar10_weights_score_what_is_said():
    """On all 10,000 test images. Processors differ in rounding, which may move an image or two."""
    archive = SHARED_DATA / "cifar10-jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip(f"there is no {archive}")
    pixels, labels = [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            split, name, *_ = *pathlib.PurePath(member.name).parts, ""
            if split == "test" and member.isfile():
                pixels.append(np.asarray(Image.open(tar.extractfile(member))))
                labels.append(CIFAR10.index(name))
    model = ck.ConvMixer256_8_P2(weights="cifar10", include_preprocessing=True)
    logits = model.predict(np.stack(pixels).astype(np.float32), batch_size=500, verbose=0)
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(-1)
    assert len(labels) == 10_000
    preset = presets.CONVMIXER_256_8_P2
    assert 100 * np.mean(ranks < 1) == pytest.approx(preset.top1, abs=0.02)
    assert 100 * np.mean(ranks < 5) == pytest.approx(preset.top5, abs=0.02)


def test_cifar10_weights_for_other_classes_are_those_of_the_body():
    whole = ck.ConvMixer256_8_P2(weights="cifar10")
    other = ck.ConvMixer256_8_P2(weights="cifar10", classes=3, input_shape=(64, 48, 3))
    assert other.output_shape == (None, 3)
    for layer in other.layers[1:-1]:
        for ours, theirs in zip(layer.get_weights(), whole.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_other_channels_are_those_of_timms_in_chans(channels):
    """Grey sums the patch embedding's kernel; more channels repeat it in turn, scaled by 3 / channels."""
    shape = (32, 32, channels)
    model = ck.ConvMixer256_8_P2(weights="cifar10", input_shape=shape, include_preprocessing=True)
    whole = ck.ConvMixer256_8_P2(weights="cifar10", include_preprocessing=True)
    kernel, expected = (network.get_layer("stem_conv").get_weights()[0] for network in (whole, model))
    kernel = torch.tensor(kernel).permute(3, 2, 0, 1)  # PyTorch's order, which timm repeats in.
    if channels == 1:
        kernel = kernel.sum(1, keepdim=True)
    elif channels != 3:
        kernel = kernel.repeat(1, 3, 1, 1)[:, :channels] * (3 / channels)
    np.testing.assert_allclose(expected, kernel.permute(2, 3, 1, 0), rtol=0, atol=1e-6)
    if channels == 1:  # A grey image is the same in both, but for what the averaged mean changes.
        grey = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 1)).astype(np.float32)
        one, other = model.predict(grey, verbose=0), whole.predict(grey.repeat(3, -1), verbose=0)
        assert (one.argmax(1) == other.argmax(1)).all()
        assert np.abs(one - other).max() < 0.2 * np.abs(other).max()


def test_real_addresses(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    timm = "https://huggingface.co/timm/{}.in1k/resolve/main/model.safetensors"
    releases = "https://github.com/locuslab/convmixer/releases/download/timm-v1.0/{}.pth.tar"
    for preset, timm_name, release_name in (
        (presets.CONVMIXER_1536_20, "convmixer_1536_20", "convmixer_1536_20_ks9_p7"),
        (presets.CONVMIXER_768_32, "convmixer_768_32", "convmixer_768_32_ks7_p7_relu"),
        (presets.CONVMIXER_1024_20, "convmixer_1024_20_ks9_p14", "convmixer_1024_20_ks9_p14"),
    ):
        urls = [url for url, _ in pretrained.sources(preset)]
        assert urls == [timm.format(timm_name), releases.format(release_name)]
