"""Images/s of inference at 224x224 on the CPU, float32: the paper's table of throughputs in spirit.

This package's ConvMixers (`keras.Model.predict_on_batch`, on TensorFlow and on JAX) beside kimm's and timm's,
and ResNet-152, DeiT-B and ResMLP-B24/8 from timm, all with random weights and normalised channels. Each
contender has a process of its own and works only when it has its turn; the ResNet and the others have theirs
among those of 1024/20. Parameters and multiply-adds are counted here, the latter of convolutions and dense
layers alone (not of the products of an attention); top-1 is the published one: of the ConvMixers their
weights', of the others what the ConvMixer paper compares with.

  pip install -e ".[bench]" && python benchmarks/throughput.py [--batch 4] [--rounds 5]
"""

import argparse
import os
from functools import partial

from side_by_side import seconds_per_step
from timm_package import import_timm

SIDE = 224
# Those that take turns: from a name to (this package's builder, kimm's, timm's, published top-1).
TURNS = (
    {"ConvMixer-1536/20": ("ConvMixer1536_20", "ConvMixer1536D20", "convmixer_1536_20", 81.37)},
    {"ConvMixer-768/32": ("ConvMixer768_32", "ConvMixer736D32", "convmixer_768_32", 80.16)},
    {
        "ConvMixer-1024/20": ("ConvMixer1024_20", "ConvMixer1024D20", "convmixer_1024_20_ks9_p14", 76.94),
        "ResNet-152": (None, None, "resnet152", 79.64),
        "DeiT-B": (None, None, "deit_base_patch16_224", 81.8),
        "ResMLP-B24/8": (None, None, "resmlp_big_24_224", 81.0),
    },
)


def keras_step(package, builder, backend, batch):
    os.environ["KERAS_BACKEND"] = backend
    import importlib

    import numpy as np

    module = importlib.import_module(package)
    model = getattr(module, builder)(weights=None, include_preprocessing=False)
    images = np.random.default_rng(0).normal(size=(batch, SIDE, SIDE, 3)).astype(np.float32)
    return lambda: model.predict_on_batch(images)


def timm_step(name, batch):
    import torch

    model = import_timm().create_model(name).eval().to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def step():
        with torch.inference_mode():
            model(images)

    return step


def size_of(name):
    """Parameters and multiply-adds of timm's network of that name."""
    import torch

    model = import_timm().create_model(name).eval()
    multiply_adds = 0

    def count(layer, inputs, output):
        nonlocal multiply_adds
        if isinstance(layer, torch.nn.Conv2d):
            multiply_adds += output.numel() * layer.weight[0].numel()
        else:
            multiply_adds += output.numel() * layer.in_features

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.zeros(1, 3, SIDE, SIDE))
    return sum(parameter.numel() for parameter in model.parameters()), multiply_adds


def contenders_of(builder, kimms, timms, batch):
    found = {"timm": partial(timm_step, timms, batch)}
    if builder:
        found["this package, TensorFlow"] = partial(
            keras_step, "convmixer_keras", builder, "tensorflow", batch
        )
        found["this package, JAX"] = partial(keras_step, "convmixer_keras", builder, "jax", batch)
        found["kimm, TensorFlow"] = partial(keras_step, "kimm.models", kimms, "tensorflow", batch)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| network | parameters | multiply-adds | top-1 | program | images/s |")
    print("| --- | ---: | ---: | ---: | --- | ---: |")
    for networks in TURNS:
        sizes = {name: size_of(timms) for name, (*_, timms, _) in networks.items()}
        contenders = {
            (name, program): step
            for name, (builder, kimms, timms, _) in networks.items()
            for program, step in contenders_of(builder, kimms, timms, args.batch).items()
        }
        for (name, program), value in seconds_per_step(contenders, args.rounds, repeats=1).items():
            top1, (parameters, multiply_adds) = networks[name][-1], sizes[name]
            print(
                f"| {name} | {parameters / 1e6:.1f} M | {multiply_adds / 1e9:.2f} G | {top1} | {program} | "
                f"{args.batch / value:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
