"""Images/s of a training step on the CPU.

Forward, backward, clipping and AdamW on the same batch again and again, no input pipeline. Compared are this
package's training (on its fused twin), in float32 and in mixed_bfloat16, the same Keras model as it is, and
timm's in PyTorch (channels_last), in float32 and under autocast in bfloat16.

  pip install -e ".[bench]" && python benchmarks/train_step.py [--network cifar10|wide] [--rounds 7]
"""

import argparse
from functools import partial

from side_by_side import print_images_per_second, seconds_per_step
from timm_package import import_timm

# The authors' fast CIFAR-10 network, and one as wide as those for ImageNet, with fewer blocks.
NETWORKS = {
    "cifar10": {"hidden_dim": 256, "depth": 8, "kernel_size": 5, "patch_size": 2, "classes": 10},
    "wide": {"hidden_dim": 768, "depth": 4, "kernel_size": 7, "patch_size": 7, "classes": 1000},
}
SIDES = {"cifar10": 32, "wide": 224}
BATCHES = {"cifar10": 128, "wide": 16}


def _keras_step(network, twin, dtype_policy="float32"):
    import keras
    import numpy as np
    import tensorflow as tf

    import convmixer_keras as ck

    keras.config.set_dtype_policy(dtype_policy)
    side, batch, classes = SIDES[network], BATCHES[network], NETWORKS[network]["classes"]
    model = ck.ConvMixer(**NETWORKS[network], input_shape=(side, side, 3))
    model = ck.training.fused_twin(model) if twin else model
    optimizer = ck.training.build_optimizer(ck.recipes.IMAGENET, model, total_steps=1000)
    ck.training.compile_model(model, optimizer, classes)
    images = tf.constant(np.random.default_rng(0).normal(size=(batch, side, side, 3)), tf.float32)
    labels = tf.one_hot(np.arange(batch) % 10, classes)
    return lambda: model.train_on_batch(images, labels)


def ours(network):
    return _keras_step(network, twin=True)


def ours_in_bfloat16(network):
    return _keras_step(network, twin=True, dtype_policy="mixed_bfloat16")


def plain_keras(network):
    return _keras_step(network, twin=False)


def pytorch(network, bfloat16=False):
    import torch
    from torch.nn.functional import cross_entropy

    import_timm()
    from timm.models.convmixer import ConvMixer

    side, batch = SIDES[network], BATCHES[network]
    hidden_dim, depth, kernel_size, patch_size, classes = NETWORKS[network].values()
    model = ConvMixer(hidden_dim, depth, kernel_size, patch_size, num_classes=classes)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, eps=1e-3, weight_decay=2e-5)
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, help="default: both, one after the other")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    contenders = {
        "this package": ours,
        "this package, mixed_bfloat16": ours_in_bfloat16,
        "plain Keras layers": plain_keras,
        "PyTorch": pytorch,
        "PyTorch, bfloat16 autocast": partial(pytorch, bfloat16=True),
    }
    for network in [args.network] if args.network else NETWORKS:
        print(f"{network}: {NETWORKS[network]}, {SIDES[network]}x{SIDES[network]}, batch {BATCHES[network]}")
        steps = {name: partial(make, network) for name, make in contenders.items()}
        seconds = seconds_per_step(steps, args.rounds, repeats=1)
        print_images_per_second(seconds, BATCHES[network], reference="PyTorch")
