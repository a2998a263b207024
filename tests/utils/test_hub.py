"""Files of Hugging Face repositories, from a server on loopback."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch_reference
from hub_server import hub  # noqa: F401
from safetensors.torch import save as safetensors_bytes

import convmixer_keras as ck
from convmixer_keras.utils import hub as hub_names
from convmixer_keras.utils.errors import InputError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://timm/convmixer_768_32.in1k", ("timm/convmixer_768_32.in1k", None, None)),
        ("hf://user/repo/folder/m.keras", ("user/repo", "folder/m.keras", None)),
        ("hf://user/repo@v1.0/m.keras", ("user/repo", "m.keras", "v1.0")),
        ("hf://user/repo@main", ("user/repo", None, "main")),
        ("hf://user/repo@refs/pr/1", ("user/repo", None, "refs/pr/1")),
        ("hf://user/repo@refs/pr/1/a/m.keras", ("user/repo", "a/m.keras", "refs/pr/1")),
    ],
)
def test_names(text, parts):
    assert hub_names.parse(text) == parts


@pytest.mark.parametrize("text", ["hf://", "hf://user", "hf:///repo", "hf://user/repo@", "hf://u r/x"])
def test_names_that_say_nothing(text):
    with pytest.raises(InputError, match="hf://USER/REPO"):
        hub_names.parse(text)


def test_weights_from_a_repository(hub, tmp_path):  # noqa: F811
    model = ck.ConvMixer(8, 1, 3, 2, classes=4, input_shape=(8, 8, 3))
    ck.save_model(model, tmp_path / "m.keras")
    hub.put("user/repo", {"README.md": b"card", "model.keras": (tmp_path / "m.keras").read_bytes()})
    for _ in range(2):
        again = ck.ConvMixer(8, 1, 3, 2, classes=4, input_shape=(8, 8, 3), weights="hf://user/repo")
        for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert hub.asked == ["/user/repo/resolve/main/model.keras"]  # The second time from the cache.
    with pytest.raises(InputError, match=r"hf://user/repo do not fit: .* 4 classes; the model .* 7 "):
        ck.ConvMixer(8, 1, 3, 2, classes=7, input_shape=(8, 8, 3), weights="hf://user/repo")


def test_the_command_converts_from_a_repository(hub, tmp_path, convmixer_convert):  # noqa: F811
    reference = torch_reference.random_model("timm", 8, 2, 3, 2)
    hub.put(
        "timm/small",
        {"pytorch_model.bin": b"", "model.safetensors": safetensors_bytes(reference.state_dict())},
    )
    outcome = convmixer_convert("hf://timm/small", tmp_path / "m.keras", "--activation", "gelu")
    assert outcome.code == 0, outcome.stderr
    assert "verified" in outcome.stdout
    assert hub.asked == ["/timm/small/resolve/main/model.safetensors"]


@pytest.mark.parametrize("folder", ["", "timm/v1/"])
def test_a_checkpoint_in_parts(folder, hub, tmp_path, convmixer_convert):  # noqa: F811
    tensors = torch_reference.random_model("timm", 8, 2, 3, 2).state_dict()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    where = {tensor: names[i % 2] for i, tensor in enumerate(tensors)}
    files = {"model.safetensors.index.json": json.dumps({"weight_map": where}).encode()}
    for name in names:
        files[name] = safetensors_bytes({key: tensors[key] for key in where if where[key] == name})
    hub.put("user/parts", {folder + name: content for name, content in files.items()})
    outcome = convmixer_convert("hf://user/parts", tmp_path / "m.keras", "--activation", "gelu")
    assert outcome.code == 0, outcome.stderr
    assert "verified" in outcome.stdout
    del files[names[1]]
    hub.put("user/torn", {folder + name: content for name, content in files.items()})
    outcome = convmixer_convert("hf://user/torn@main", tmp_path / "n.keras", "--activation", "gelu")
    assert outcome.code == 2
    assert f"/{folder}{names[1]}: there is no such file in the repository" in outcome.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://user/none", "there is no such repository"),
        ("hf://user/repo/none.safetensors", "no such file"),
        ("hf://user/repo", "holds no file .* it holds README.md, m.txt"),
    ],
)
def test_what_is_not_there(text, message, hub, tmp_path, convmixer_convert):  # noqa: F811
    hub.put("user/repo", {"README.md": b"", "m.txt": b""})
    outcome = convmixer_convert(text, tmp_path / "m.keras", "--activation", "gelu")
    assert outcome.code == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert re.search(message, outcome.stderr), outcome.stderr


@pytest.mark.parametrize("way", ["offline", "unreachable", "broken"])
def test_what_was_fetched_before_needs_no_hub(way, hub, tmp_path, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    hub.put("user/repo", {"README.md": b"card", "model.keras": b"the model", "more/other.keras": b"another"})
    wanted = ("model.keras", ".keras")
    path = hub_names.download("hf://user/repo", wanted)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif way == "unreachable":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        hub.broken = True
    for text in ("hf://user/repo", "hf://user/repo/model.keras", "hf://user/repo@main"):
        assert hub_names.download(text, wanted) == path
    for text in ("hf://user/other", "hf://user/repo/more/other.keras", "hf://user/repo@v2"):
        with pytest.raises(InputError, match=f"cannot fetch {text}: ") as error:
            hub_names.download(text, wanted)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"holds no file \.safetensors; it holds model\.keras"):
        hub_names.download("hf://user/repo", (".safetensors",))


@pytest.mark.slow
def test_a_model_of_the_hub_offline_in_a_process_of_its_own(hub, tmp_path):  # noqa: F811
    model = ck.ConvMixer(8, 1, 3, 2, classes=4, input_shape=(8, 8, 3), input_mean=1, input_std=2)
    ck.save_model(model, tmp_path / "m.keras", list("abcd"))
    hub.put("user/repo", {"model.keras": (tmp_path / "m.keras").read_bytes()})
    script = "import convmixer_keras as ck; print(ck.inference.load('hf://user/repo').class_names)"
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    for offline in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**environment, "HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
        )
        assert done.stdout == "['a', 'b', 'c', 'd']\n", done.stderr
    assert hub.asked.count("/user/repo/resolve/main/model.keras") == 1


def test_a_hub_that_cannot_be_reached(hub, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match=r"cannot fetch hf://user/repo/model\.keras") as error:
        hub_names.download("hf://user/repo/model.keras", ())
    assert "\n" not in str(error.value)


def test_which_of_several_files_is_taken(capsys):
    """Of the exact name, wherever it is sorted; what else there is is said."""
    wanted = ("model.safetensors", ".safetensors")
    files = ["adapter_model.safetensors", "README.md", "model.safetensors"]
    assert hub_names._choose(files, wanted, "hf://a/b") == "model.safetensors"
    assert capsys.readouterr().err == (
        "note: of hf://a/b this takes model.safetensors, and not adapter_model.safetensors\n"
    )
    assert hub_names._choose(["x/model.safetensors", "model.safetensors"], wanted, "") == "model.safetensors"
    assert hub_names._choose(["b.safetensors"], wanted, "") == "b.safetensors"
    assert "b.safetensors" not in capsys.readouterr().err
