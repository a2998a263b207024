"""The recipes `imagenet` and `cifar10_paper` as a plain PyTorch loop with timm's own parts, to judge ours by.

Prints a row for each epoch, to compare with the `history.csv` of the run below each command: loss on the
augmented training images, loss and accuracy on the test images. Nothing of this package is imported: network,
transforms, mixup and cutmix, erasing, loss, optimizer and clipping are timm's. The schedule is that of the
authors' fork of timm, which calls it "onecycle" and turns at whole epochs; timm has none of that shape.

  python benchmarks/timm_training.py cifar10-jpeg
  convmixer-train --recipe imagenet --dataset cifar10-jpeg --image-size 32 --hidden-dim 64 --depth 4 \\
      --patch-size 2 --kernel-size 5 --epochs 10 --batch-size 64 --dtype-policy float32

  python benchmarks/timm_training.py cifar10-jpeg --recipe cifar10_paper --epochs 3 \\
      --patch-size 1 --kernel-size 9
  convmixer-train --recipe cifar10_paper --dataset cifar10-jpeg --hidden-dim 64 --depth 4 --epochs 3
"""

import argparse
import os
import random
import sys
import time

import numpy as np
import torch
from timm_package import import_timm

AUGMENTATION = {
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": None,
    "interpolation": "random",
}
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RECIPES = {
    "imagenet": {"weight_decay": 2e-5, "scale": (0.08, 1.0), "crop_pct": 0.96, "smoothing": 0.1, **IMAGENET},
    "cifar10_paper": {
        "weight_decay": 0.01,
        "scale": (0.75, 1.0),
        "crop_pct": 1.0,
        "smoothing": 0.1,
        **CIFAR10,
    },
}


def batches(args, settings, training):
    from timm.data import ImageDataset, create_transform

    normalisation = {name: settings[name] for name in ("mean", "std")}
    if training:
        transform = create_transform(
            args.image_size, is_training=True, scale=settings["scale"], **AUGMENTATION, **normalisation
        )
    else:
        transform = create_transform(
            args.image_size, interpolation="bicubic", crop_pct=settings["crop_pct"], **normalisation
        )
    images = ImageDataset(os.path.join(args.folder, "train" if training else "test"), transform=transform)
    return torch.utils.data.DataLoader(
        images, args.batch_size, shuffle=training, drop_last=training, num_workers=1
    )


def learning_rate(epoch, epochs, peak):
    """Linear between 0, the peak at two fifths of the run, a twentieth of it at four fifths, and 0."""
    return float(np.interp(epoch, [0, epochs * 2 / 5, epochs * 4 / 5, epochs], [0, peak, peak / 20, 0]))


def train_one_epoch(model, optimizer, data, mix, erase, epoch, args):
    """Returns the mean loss on the augmented images."""
    from timm.loss import SoftTargetCrossEntropy
    from timm.utils import dispatch_clip_grad

    model.train()
    losses = []
    for i, (images, labels) in enumerate(data):
        rate = learning_rate(epoch + (i + 1) / len(data), args.epochs, args.learning_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = mix(images, labels)
        optimizer.zero_grad()
        logits = model(erase(images).contiguous(memory_format=torch.channels_last))
        loss = SoftTargetCrossEntropy()(logits, labels)
        loss.backward()
        dispatch_clip_grad(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return np.mean(losses)


@torch.no_grad()
def evaluate(model, data):
    """Returns loss and accuracy."""
    model.eval()
    loss = correct = seen = 0
    for images, labels in data:
        logits = model(images.contiguous(memory_format=torch.channels_last))
        loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return loss / seen, correct / seen


def main(args):
    timm = import_timm()
    from timm.data import Mixup
    from timm.data.random_erasing import RandomErasing
    from timm.optim import create_optimizer_v2

    settings = RECIPES[args.recipe]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(args.seed)
    data = {split: batches(args, settings, split == "train") for split in ("train", "test")}
    classes = len(data["train"].dataset.reader.class_to_idx)
    model = timm.models.convmixer.ConvMixer(
        args.hidden_dim,
        args.depth,
        kernel_size=args.kernel_size,
        patch_size=args.patch_size,
        num_classes=classes,
    ).to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(
        model, "adamw", args.learning_rate, weight_decay=settings["weight_decay"], eps=1e-3
    )
    mix = Mixup(0.5, 0.5, label_smoothing=settings["smoothing"], num_classes=classes)
    erase = RandomErasing(0.25, mode="pixel", device="cpu")
    print(" ".join(f"{name}={value}" for name, value in vars(args).items()), file=sys.stderr)
    print("epoch,loss,val_loss,val_accuracy,seconds", flush=True)
    for epoch in range(args.epochs):
        start = time.perf_counter()
        loss = train_one_epoch(model, optimizer, data["train"], mix, erase, epoch, args)
        test_loss, accuracy = evaluate(model, data["test"])
        seconds = time.perf_counter() - start
        print(f"{epoch + 1},{loss:.4f},{test_loss:.4f},{accuracy:.4f},{seconds:.0f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", help="with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--recipe", choices=RECIPES, default="imagenet")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--hidden-dim", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--patch-size", type=int, default=2)
    parser.add_argument("--kernel-size", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
