"""Checkpoints of strangers: wrapped in any way, with names of their own, or of other Keras packages."""

import keras
import numpy as np
import pytest
import torch
import torch_reference
from safetensors.torch import save_file

from convmixer_keras.convert.weights import recognition, to_keras
from convmixer_keras.utils.errors import InputError

SMALL = (16, 12, 3, 2, 10, 3)  # Twelve blocks: 10 sorts before 2 as text.
PARTS = ("stem.0", "stem.2", "blocks.{}.0.fn.0", "blocks.{}.0.fn.2", "blocks.{}.1", "blocks.{}.3", "head")

# Names of the patch embedding, its normalisation, the four modules of a block, and the classifier; the first
# block's number, and by how much it grows.
NAMINGS = {
    "flat": ("0 2 {}.fn.0 {}.fn.2 {+1} {+3} 99", 3, 4),
    "flat, no residual module": ("0 2 {} {+2} {+3} {+5} 99", 3, 6),
    "words": (
        "patch_embed.0 patch_embed.2 blocks.{}.depthwise_conv blocks.{}.bn1 blocks.{}.pointwise_conv "
        "blocks.{}.bn2 classifier",
        0,
        1,
    ),
    "modules of activation and norm": (
        "embedding_layer.conv embedding_layer.actbn.1 convmixer_layers.{}.depthwise "
        "convmixer_layers.{}.actbn1.1 convmixer_layers.{}.pointwise convmixer_layers.{}.actbn2.1 fc",
        1,
        1,
    ),
    "mixers": (
        "zz.proj zz.norm layer{}.token.conv layer{}.token.norm layer{}.channel.conv layer{}.channel.norm "
        "a_head",
        1,
        1,
    ),
    "numbered norms": ("proj proj_norm m.{}.dw m.{}.norm1 m.{}.pw m.{}.norm2 out", 0, 1),
    "words elsewhere": (
        "embed bn net.{}.spatial_conv net.{}.bn_spatial net.{}.channel_conv net.{}.bn_channel head",
        0,
        1,
    ),
    "lists of modules": ("proj norm dw.{} dw_norm.{} pw.{} pw_norm.{} out", 0, 1),
    "timm's blocks, other ends": (
        "patches.conv patches.norm blocks.{}.0.fn.0 blocks.{}.0.fn.2 blocks.{}.1 blocks.{}.3 classifier.0",
        0,
        1,
    ),
}
NOTHING_TELLS = (
    "conv1 bn convmixblock.{}.dw convmixblock.{}.bn_a convmixblock.{}.pw convmixblock.{}.bn_b linear"
)


def renamed(reference, naming, depth):
    """The reference's state dict under other names."""
    names, first, step = naming
    names = names.split()

    def block_name(pattern, i):
        number = first + step * i
        for plus in range(1, 9):
            pattern = pattern.replace(f"{{+{plus}}}", str(number + plus))
        return pattern.format(number)

    modules = {PARTS[0]: names[0], PARTS[1]: names[1]}
    for i in range(depth):
        for place in range(2, 6):
            modules[PARTS[place].format(i)] = block_name(names[place], i)
    modules[PARTS[6]] = names[6]
    state = reference.state_dict()
    return {
        f"{new}.{key.rpartition('.')[2]}": tensor.contiguous()
        for old, new in modules.items()
        for key, tensor in state.items()
        if key.rpartition(".")[0] == old
    }


def assert_recognised(found, expected):
    """The tensors of timm's layout are found under other names."""
    theirs = recognition.recognise(expected.state_dict(), "timm")
    assert found.sizes == theirs.sizes
    for name, tensor in theirs.tensors.items():
        ours = found.tensors[name]
        values = ours.read() if hasattr(ours, "read") else ours.numpy()
        np.testing.assert_array_equal(values, tensor.numpy(), err_msg=str(name))


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize(
    "shape", [SMALL, (8, 1, 5, 4, 7, 3), (8, 2, 8, 4, 3, 1), (8, 2, 3, 3, 8, 1)], ids=str
)
def test_names_of_their_own(shape, naming):
    reference = torch_reference.random_model("timm", *shape)
    state = renamed(reference, NAMINGS[naming], shape[1])
    for names in (list(state), sorted(state), sorted(state, reverse=True)):
        found = recognition.recognise({name: state[name] for name in names}, "m.pth")
        assert_recognised(found, reference)
        assert found.layout == recognition.OWN_NAMES


def test_norms_that_no_name_tells_apart_are_refused():
    state = renamed(torch_reference.random_model("timm", *SMALL), (NOTHING_TELLS, 0, 1), 12)
    with pytest.raises(InputError, match=r"nothing tells which .*block\.0\.bn_a"):
        recognition.recognise(state, "m.pth")


@pytest.mark.parametrize(
    "prefix",
    [
        "model.", "backbone.0.", "net.", "module.model.net.", "_forward_module.", "_fsdp_wrapped_module.",
        "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["timm", "official", "tweet"])
def test_any_prefix(layout, prefix):
    state = torch_reference.random_model(layout, 16, 2, 3, 2).state_dict()
    found = recognition.recognise({prefix + key: tensor for key, tensor in state.items()}, "m.pth")
    assert found.layout == (recognition.OWN_NAMES if layout == "tweet" else layout)
    assert found.sizes == (16, 2, 3, 2, 3, 10)
    assert set(found.keys.values()) == {prefix + key for key in state if "num_batches" not in key}


def test_wrappers_within_names():
    reference = torch_reference.random_model("timm", 16, 2, 3, 2)
    state = {
        "_fsdp_wrapped_module." + key.replace("blocks.", "blocks._fsdp_wrapped_module."): tensor
        for key, tensor in reference.state_dict().items()
    }
    assert recognition.recognise(state, "m.pth").layout == "timm"


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda state: {"net": state, "acc": 91.2, "epoch": 3},
        lambda state: {"weights": state},
        lambda state: {"params": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {"model_at_best_epoch": state, "epoch": 3},
        lambda state: {"state_dict": {"model." + key: tensor for key, tensor in state.items()}, "epoch": 3},
        lambda state: {"net": {"state_dict": state}},
        lambda state: {"n_averaged": torch.tensor(5)} | {"module." + key: state[key] for key in state},
        lambda state: (
            state | {"total_ops": torch.zeros(1, dtype=torch.float64), "stem.0.total_params": torch.zeros(1)}
        ),
    ],
    ids=["net", "weights", "params", "own name", "lightning", "nested", "averaged", "thop"],
)
def test_wrapper_keys(wrapper, tmp_path):
    reference = torch_reference.random_model("timm", 16, 2, 3, 2)
    torch.save(wrapper(reference.state_dict()), tmp_path / "m.pth")
    assert to_keras.open_checkpoint(tmp_path / "m.pth", activation="gelu").layout == "timm"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_float8(dtype, ending, tmp_path):
    reference = torch_reference.random_model("timm", 16, 2, 3, 2)
    with torch.no_grad():
        state = {
            key: t.to(dtype) if t.is_floating_point() else t for key, t in reference.state_dict().items()
        }
        for key, tensor in reference.state_dict().items():
            tensor.copy_(state[key].to(tensor.dtype))
    path = tmp_path / f"m.{ending}"
    (save_file if ending == "safetensors" else torch.save)(state, path)
    assert_recognised(to_keras.open_checkpoint(path, activation="gelu"), reference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.weight": None, "classifier.bias": None}, "1 classifier, found none"),
        ({"blocks.5.bn1.running_var": None}, r"lacks blocks\.5\.bn1\.running_var"),
        ({"blocks.5.bn1.": None}, "25 normalisations, found 24"),
        ({"blocks.5.depthwise_conv.": None}, "12 depthwise convolutions, found 11"),
        ({"blocks.5.": None}, "lacks a block, .* numbered 5"),
        ({"extra.weight": torch.ones(4, 4, 4)}, r"no other tensors, found extra\.weight"),
        ({"extra.weight": torch.ones(7, 5), "extra.bias": torch.ones(7)}, "1 classifier, found 2: .*extra"),
        (
            {"blocks.5.depthwise_conv.weight": torch.ones(16, 1, 5, 5)},
            r"\(16, 1, 5, 5\), expected \(16, 1, 3, 3\)",
        ),
        ({"classifier.weight": torch.ones(10, 15)}, r"\(10, 15\), expected \(10, 16\)"),
        (
            {f"blocks.{i}.depthwise_conv{n}.weight": torch.ones(shape)
             for i in range(12) for n, shape in (("", (16, 1, 8, 1)), ("2", (16, 1, 1, 8)))},
            r"12 depthwise convolutions, found 24: blocks\.0\.depthwise_conv \(16, 1, 8, 1\)",
        ),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_is_left_over_or_missing_is_named(change, message):
    state = renamed(torch_reference.random_model("timm", *SMALL), NAMINGS["words"], 12)
    for key, value in change.items():
        if value is None:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(key)}
        else:
            state[key] = value
    with pytest.raises(InputError, match=message) as error:
        recognition.recognise(state, "m.pth")
    assert "\n" not in str(error.value)


def test_the_command_says_what_it_took_for_what(tmp_path, convmixer_convert):
    reference = torch_reference.random_model("timm", 16, 2, 3, 2)
    torch.save({"net": renamed(reference, NAMINGS["words"], 2)}, tmp_path / "m.pth")
    outcome = convmixer_convert(tmp_path / "m.pth", tmp_path / "m.keras", "--activation", "gelu")
    assert outcome.code == 0, outcome.stderr
    assert "stem: convolution patch_embed.0, normalisation patch_embed.2" in outcome.stdout
    assert "block 1: depthwise blocks.1.depthwise_conv, normalisation blocks.1.bn1" in outcome.stdout
    assert "verified on 2 random images" in outcome.stdout
    images = np.random.default_rng(0).standard_normal((2, 12, 12, 3), np.float32)
    model = keras.saving.load_model(tmp_path / "m.keras")
    expected = torch_reference.logits(reference, images)
    np.testing.assert_allclose(np.asarray(model(images)), expected, rtol=0, atol=1e-4)
