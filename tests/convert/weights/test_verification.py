"""What tensors do not show: statistics refute it, a reference settles it."""

import numpy as np
import pytest
import torch
import torch_reference
from torch import nn

from convmixer_keras.convert.weights import to_keras, verification
from convmixer_keras.models.presets import Sizes
from convmixer_keras.utils.errors import InputError

SMALL = (16, 2, 3, 2, 10, 3)
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


def trained(act):
    """A network whose running means are those of its own activations, on noise."""
    torch.manual_seed(0)
    model = torch_reference.Timm(*SMALL, act)
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.bias.uniform_(-2, 2)  # So that the means are on all sides.
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # They are averages over all batches.
        for _ in range(6):
            model(torch.randn(8, 3, 16, 16))
    return model.eval()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_genuine_statistics_pass(name, tmp_path):
    torch.save(trained(ACTIVATIONS[name]).state_dict(), tmp_path / "m.pth")
    assert to_keras.open_checkpoint(tmp_path / "m.pth", activation=name).activation == name


def test_statistics_refute_an_activation_and_name_the_others(tmp_path):
    torch.save(trained(nn.SiLU).state_dict(), tmp_path / "m.pth")
    for claim in ("relu", "gelu"):
        with pytest.raises(
            InputError, match=f"cannot have {claim}.*running_mean.*allow elu, .*silu"
        ) as error:
            to_keras.open_checkpoint(tmp_path / "m.pth", activation=claim)
        assert "gelu," not in str(error.value).partition("allow")[2]
    with pytest.raises(InputError, match=r"Give activation; its running means allow elu, .*silu"):
        to_keras.open_checkpoint(tmp_path / "m.pth")


def test_statistics_refute_normalisation_before_the_activation(tmp_path):
    """A depthwise convolution of normalised maps has means on both sides of 0."""
    model = torch_reference.random_model("timm", *SMALL)
    with torch.no_grad():
        model.blocks[1][0].fn[2].running_mean.normal_(0, 2)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"blocks\.1\.0\.fn\.2\.running_mean has a running mean of -"):
        to_keras.open_checkpoint(tmp_path / "m.pth", activation="gelu")


class TwiceResidual(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + x


def look_alike(kind, act=nn.GELU):
    """Networks with a ConvMixer's tensors that compute something else."""
    model = torch_reference.random_model("timm", *SMALL, act=act)
    if kind == "a second residual":
        model.blocks = nn.Sequential(*[TwiceResidual(*block) for block in model.blocks])
    elif kind == "no activation after the stem":
        model.stem[1] = nn.Identity()
    elif kind == "padding in the stem":
        model.stem[0].padding = (1, 1)
    elif kind == "dilation":
        model.blocks[0][0].fn[0].dilation, model.blocks[0][0].fn[0].padding = (2, 2), (2, 2)
    elif kind == "max pooling":
        model.forward = lambda x: model.head(model.blocks(model.stem(x)).amax(dim=(2, 3)))
    elif kind == "LeakyReLU":
        return look_alike(None, nn.LeakyReLU)
    return model.eval()


KINDS = [
    "a second residual",
    "no activation after the stem",
    "padding in the stem",
    "dilation",
    "max pooling",
]


def write_reference(model, path, channels_last=False, dtype=torch.float32):
    """The three lines of docs/converting.md."""
    inputs = torch.randn(3, 3, 13, 16, dtype=dtype)
    logits = model(inputs).detach()
    np.savez(path, inputs=inputs.permute(0, 2, 3, 1) if channels_last else inputs, logits=logits)


@pytest.mark.parametrize("kind", [*KINDS, "LeakyReLU"])
def test_a_reference_catches_every_look_alike(kind, tmp_path, convmixer_convert):
    model = look_alike(kind)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    write_reference(model, tmp_path / "r.npz")
    out = tmp_path / "m.keras"
    arguments = (tmp_path / "m.pth", out, "--activation", "relu" if kind == "LeakyReLU" else "gelu")
    outcome = convmixer_convert(*arguments, "--reference", tmp_path / "r.npz")
    assert outcome.code == 1
    assert "Keras and your program differ" in outcome.stderr
    assert not out.exists()
    without = convmixer_convert(*arguments)  # And without one the line says what it leaves open.
    assert without.code == 0
    line = next(line for line in without.stdout.splitlines() if line.startswith("verified"))
    for words in ("not covered", "activation", "order", "residuals", "padding", "pooling", "--reference"):
        assert words in line


def test_a_damaged_reference_is_one_line(tmp_path, convmixer_convert):
    """Any byte of a compressed archive may be wrong, and each part of the libraries has its own error."""
    torch.save(look_alike(None).state_dict(), tmp_path / "m.pth")
    random = np.random.default_rng(0)
    np.savez_compressed(
        tmp_path / "r.npz", inputs=random.normal(size=(3, 16, 16, 3)), logits=np.zeros((3, 10))
    )
    whole = (tmp_path / "r.npz").read_bytes()
    for place in range(60, len(whole) // 2, 1500):
        (tmp_path / "r.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"r\.npz is no .npz file of inputs and logits"):
            verification.reference(tmp_path / "r.npz", Sizes(*SMALL))


@pytest.mark.parametrize(
    "flags", [(), ("--include-preprocessing", "--mean", 0.5, "--std", 0.2, "--image-size", 16)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_reference_confirms_a_genuine_network(channels_last, flags, tmp_path, convmixer_convert):
    model = look_alike(None)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    write_reference(model, tmp_path / "r.npz", channels_last)
    outcome = convmixer_convert(
        tmp_path / "m.pth",
        tmp_path / "m.keras",
        "--activation",
        "gelu",
        "--reference",
        tmp_path / "r.npz",
        *flags,
    )
    assert outcome.code == 0, outcome.stderr
    assert "verified on 3 inputs of" in outcome.stdout
    assert "same top-1 on 3 of 3" in outcome.stdout
    assert "not covered" not in outcome.stdout


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"inputs": np.zeros((2, 3, 8, 8))}, "logits"),
        ({"inputs": np.zeros((2, 5, 8, 8)), "logits": np.zeros((2, 10))}, r"3 channels.*\(2, 5, 8, 8\)"),
        ({"inputs": np.zeros((2, 3, 8, 8)), "logits": np.zeros((2, 9))}, r"\(2, 10\), got \(2, 9\)"),
        ({"inputs": np.zeros((0, 3, 8, 8)), "logits": np.zeros((0, 10))}, "got"),
        ({"inputs": np.zeros((2, 3, 1, 8)), "logits": np.zeros((2, 10))}, "at least 2 x 2"),
        ({"inputs": np.array(["a", "b"]), "logits": np.zeros((2, 10))}, "no .npz file"),
        ({"inputs": np.array([{}]), "logits": np.zeros((2, 10))}, "no .npz file"),
        (None, "not a zip archive"),
    ],
)
def test_references_that_do_not_fit(arrays, words, tmp_path):
    path = tmp_path / "r.npz"
    if arrays is None:
        path.write_bytes(b"PK\x03\x04 and no archive")
    else:
        np.savez(path, **arrays)
    with pytest.raises(InputError, match=words) as error:
        verification.reference(path, Sizes(16, 2, 3, 2, 3, 10))
    assert "\n" not in str(error.value)


def test_large_patches_and_images_do_not_fill_the_memory(tmp_path, convmixer_convert):
    model = torch_reference.random_model("timm", 4, 1, 3, 2048, 3, 1)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    outcome = convmixer_convert(tmp_path / "m.pth", tmp_path / "m.keras", "--activation", "gelu")
    assert outcome.code == 0, outcome.stderr
    assert "2048 x 2048, against PyTorch" in outcome.stdout
    torch.save(torch_reference.random_model("timm", *SMALL).state_dict(), tmp_path / "m.pth")
    outcome = convmixer_convert(
        tmp_path / "m.pth", tmp_path / "m.keras", "--activation", "gelu", "--image-size", 20_000
    )
    assert outcome.code == 0, outcome.stderr
    assert "verified on 2 random images, 32 x 32" in outcome.stdout


def without_biases(act=nn.GELU):
    model = torch_reference.random_model("timm", *SMALL, act=act)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    return model


def shifted(after_stem, before_head):
    """The authors' Sequential with layers without weights in between."""
    layers = list(torch_reference.random_model("official", *SMALL))
    layers[-1:-1] = [nn.Dropout()] * before_head
    layers[3:3] = [nn.Dropout()] * after_stem
    return nn.Sequential(*layers).eval()


def convolutional_head():
    model = torch_reference.random_model("timm", *SMALL)
    head = nn.Conv2d(16, 10, 1)
    head.weight.data, head.bias.data = model.head.weight.data[:, :, None, None], model.head.bias.data
    model.head = nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (1, -1)), head, nn.Flatten(1))
    model.forward = lambda x: model.head[2](model.blocks(model.stem(x))).mean(dim=(2, 3))
    return model


TURNED_AWAY = {
    "no biases": without_biases,
    "after the stem": lambda: shifted(1, 0),
    "before the head": lambda: shifted(0, 1),
    "both": lambda: shifted(2, 3),
    "1x1 head": convolutional_head,
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*zip(TURNED_AWAY, ("m.ckpt", "m.t7", "m.mdl", "weights", "m.pth"), strict=True),
     ("no biases", "m.safetensors"), ("1x1 head", "m.safetensors")],
)  # fmt: skip
def test_networks_that_were_turned_away(kind, name, tmp_path):
    model = TURNED_AWAY[kind]()
    if name == "m.safetensors":
        from safetensors.torch import save_file as save
    else:
        save = torch.save
    save(model.state_dict(), tmp_path / name)
    images = np.random.default_rng(0).standard_normal((2, 12, 12, 3), np.float32)
    converted = to_keras.convert_checkpoint(tmp_path / name, activation="gelu")
    expected = torch_reference.logits(model, images)
    np.testing.assert_allclose(np.asarray(converted(images)), expected, rtol=0, atol=1e-4)


BESIDE = {"normalize.mean": torch.ones(3), "normalize.std": torch.ones(3), "criterion.weight": torch.ones(10)}


def test_tensors_beside_the_network(tmp_path, convmixer_convert):
    state = torch_reference.random_model("timm", *SMALL).state_dict()
    torch.save(state | BESIDE, tmp_path / "m.pth")
    refused = convmixer_convert(tmp_path / "m.pth", tmp_path / "m.keras", "--activation", "gelu")
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1)
    assert "no other tensors, found normalize.mean, normalize.std, criterion.weight" in refused.stderr
    assert "--ignore" in refused.stderr
    arguments = (tmp_path / "m.pth", tmp_path / "m.keras", "--activation", "gelu", "--ignore")
    assert convmixer_convert(*arguments, "normalize", "criterion.*").code == 0
    assert "no tensor lossy" in convmixer_convert(*arguments, "lossy").stderr


def two_networks(kind):
    one, other = (torch_reference.random_model("timm", *SMALL, seed=seed) for seed in (1, 2))
    if kind == "one dictionary":
        content = {f"student.{key}": value for key, value in one.state_dict().items()}
        return content | {f"teacher.{key}": value for key, value in other.state_dict().items()}, other
    if kind == "with and without":
        return one.state_dict() | {
            f"teacher.{key}": value for key, value in other.state_dict().items()
        }, other
    names = ("model", "teacher") if kind == "beside the model" else ("student", "teacher")
    return dict(zip(names, (one.state_dict(), other.state_dict()), strict=True)), other


@pytest.mark.parametrize(
    "kind", ["one dictionary", "with and without", "two dictionaries", "beside the model"]
)
def test_one_of_two_networks(kind, tmp_path):
    content, teacher = two_networks(kind)
    torch.save(content, tmp_path / "m.pth")
    if kind != "beside the model":
        with pytest.raises(InputError, match=r"prefix|ignore"):
            to_keras.open_checkpoint(tmp_path / "m.pth", activation="gelu")
    for prefix in ("teacher", "teacher."):
        found = to_keras.open_checkpoint(tmp_path / "m.pth", activation="gelu", prefix=prefix)
        head = found.tensors["head", "weight"].read()
        np.testing.assert_array_equal(head, teacher.head.weight.detach().numpy())
    with pytest.raises(InputError, match=r"begins with nobody\.: they begin with"):
        to_keras.open_checkpoint(tmp_path / "m.pth", activation="gelu", prefix="nobody")


def holding_itself():
    content = {"epoch": 3}
    content["state_dict"] = content
    return content


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda path: torch.save(holding_itself(), path), "without end"),
        (lambda path: torch.jit.save(torch.jit.script(nn.Conv2d(3, 4, 2)), path), r"TorchScript.*state_dict"),
        (lambda path: torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),)), path),
         r"torch\.export.*state_dict"),
    ],
    ids=["holds itself", "TorchScript", "pt2"],
)  # fmt: skip
def test_files_of_torch_that_are_no_checkpoints(save, words, tmp_path):
    save(str(tmp_path / "m.pt2"))
    with pytest.raises(InputError, match=words) as error:
        to_keras.open_checkpoint(tmp_path / "m.pt2", activation="gelu")
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize(
    "shape",
    [(16, 3, 0, 0), (16, 0, 2, 2), (16, 3, 100_000, 100_000)],
    ids=["no patch", "no channels", "huge"],
)
def test_impossible_sizes(shape, tmp_path):
    state = torch_reference.random_model("timm", *SMALL).state_dict()
    state["stem.0.weight"] = torch.zeros(1).expand(shape) if 0 not in shape else torch.zeros(shape)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(InputError):
        to_keras.convert_checkpoint(tmp_path / "m.pth", activation="gelu")
