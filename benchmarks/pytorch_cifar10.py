"""The recipe `cifar10_fast` as a plain PyTorch loop with torchvision's transforms, to judge ours by.

Prints a row for each epoch, to compare with `history.csv`: accuracy on the augmented training images and on
the test images. Nothing of this package is imported. Settings are those of the authors' script for 92.6 %:
AdamW as PyTorch has it with decay on every parameter, no clipping, and the last, smaller batch is used.

  pip install torch torchvision && python benchmarks/pytorch_cifar10.py cifar10-jpeg [--last-epoch 3]
"""

import argparse
import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 25, 512, 0.05, 0.005


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def convmixer(hidden_dim, depth, kernel_size=5, patch_size=2, classes=10):
    def activated(convolution):
        return [convolution, nn.GELU(), nn.BatchNorm2d(hidden_dim)]

    layers = activated(nn.Conv2d(3, hidden_dim, patch_size, patch_size))
    for _ in range(depth):
        depthwise = nn.Conv2d(hidden_dim, hidden_dim, kernel_size, padding="same", groups=hidden_dim)
        layers += [Residual(*activated(depthwise)), *activated(nn.Conv2d(hidden_dim, hidden_dim, 1))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(hidden_dim, classes))


def batches(folder, training):
    to_input = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augmentation = [transforms.RandomHorizontalFlip(), transforms.RandAugment(num_ops=2, magnitude=12)]
    dataset = ImageFolder(folder, transforms.Compose(augmentation + to_input if training else to_input))
    return DataLoader(dataset, BATCH_SIZE, shuffle=training, num_workers=1)


def learning_rate(epoch):
    """The peak after two fifths of the run, a twentieth of it after four fifths, 0 at the end."""
    turns = [0, EPOCHS * 2 / 5, EPOCHS * 4 / 5, EPOCHS]
    return float(np.interp(epoch, turns, [0, LEARNING_RATE, LEARNING_RATE / 20, 0]))


def train_one_epoch(model, optimizer, data, epoch, autocast):
    """Returns the share of the augmented training images that were recognised."""
    model.train()
    correct = seen = 0
    for i, (images, labels) in enumerate(data):
        optimizer.param_groups[0]["lr"] = learning_rate(epoch + (i + 1) / len(data))
        optimizer.zero_grad()
        with autocast():
            logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return correct / seen


@torch.no_grad()
def evaluate(model, data, autocast):
    model.eval()
    correct = seen = 0
    for images, labels in data:
        with autocast():
            logits = model(images.contiguous(memory_format=torch.channels_last))
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return correct / seen


def main(args):
    torch.manual_seed(args.seed)
    train = batches(os.path.join(args.folder, "train"), training=True)
    test = batches(os.path.join(args.folder, "test"), training=False)
    model = convmixer(args.hidden_dim, args.depth).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=args.autocast)

    print("epoch,accuracy,val_accuracy,seconds", flush=True)
    for epoch in range(args.last_epoch):
        start = time.perf_counter()
        accuracy = train_one_epoch(model, optimizer, train, epoch, autocast)
        test_accuracy = evaluate(model, test, autocast)
        seconds = time.perf_counter() - start
        print(f"{epoch + 1},{accuracy:.4f},{test_accuracy:.4f},{seconds:.0f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", help="with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--hidden-dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--last-epoch", type=int, default=EPOCHS, help=f"stop after this one of {EPOCHS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autocast", action="store_true", help="bfloat16, as the authors' float16 on a GPU")
    main(parser.parse_args())
