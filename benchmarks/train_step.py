"""Images/s of a training step: ConvMixer-256/8, patch 2, kernel 5, 32x32, batch 128, on the CPU.

Forward, backward, clipping and AdamW on the same batch again and again, no input pipeline. Compared are this
package's training (the fused twin of fused.py), the same Keras model as it is, and PyTorch (channels_last).

  pip install -e ".[bench]" && python benchmarks/train_step.py [--rounds 7]
"""

import argparse

from side_by_side import print_images_per_second, seconds_per_step

SIZES = {"hidden_dim": 256, "depth": 8, "kernel_size": 5, "patch_size": 2, "classes": 10}
BATCH = 128


def _keras_step(twin):
    import numpy as np
    import tensorflow as tf

    from convmixer_keras import ConvMixer
    from convmixer_keras.recipes import IMAGENET
    from convmixer_keras.training import trainer as training
    from convmixer_keras.training.fused import fused_twin

    model = ConvMixer(**SIZES, input_shape=(32, 32, 3))
    model = fused_twin(model) if twin else model
    optimizer = training.build_optimizer(IMAGENET, model, total_steps=1000)
    training.compile_model(model, optimizer, SIZES["classes"])
    images = tf.constant(np.random.default_rng(0).normal(size=(BATCH, 32, 32, 3)), tf.float32)
    labels = tf.one_hot(np.arange(BATCH) % 10, 10)
    return lambda: model.train_on_batch(images, labels)


def ours():
    return _keras_step(twin=True)


def plain_keras():
    return _keras_step(twin=False)


def pytorch():
    import torch
    from torch.nn.functional import cross_entropy

    from convmixer_keras.convert.torch_model import torch_convmixer

    model = torch_convmixer(**SIZES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, eps=1e-3, weight_decay=2e-5)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 10

    def step():
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    contenders = {"this package": ours, "plain Keras layers": plain_keras, "PyTorch": pytorch}
    seconds = seconds_per_step(contenders, parser.parse_args().rounds, repeats=2)
    print_images_per_second(seconds, BATCH, reference="PyTorch")
