"""Images/s of inference on the CPU, ConvMixer-1024/20 at 224x224, batch 8: Keras against timm's in PyTorch.

pip install -e ".[bench]" && python benchmarks/predict.py [--rounds 7]
"""

import argparse

from side_by_side import print_images_per_second, seconds_per_step
from timm_package import import_timm

BATCH = 8


def ours():
    import numpy as np

    import convmixer_keras as ck

    model = ck.ConvMixer1024_20()
    images = np.random.default_rng(0).normal(size=(BATCH, 224, 224, 3)).astype(np.float32)
    return lambda: model.predict_on_batch(images)


def pytorch():
    import torch

    model = import_timm().create_model("convmixer_1024_20_ks9_p14").eval()
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)

    def step():
        with torch.inference_mode():
            return model(images).numpy()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    seconds = seconds_per_step(
        {"this package": ours, "PyTorch": pytorch}, parser.parse_args().rounds, repeats=1
    )
    print_images_per_second(seconds, BATCH, reference="PyTorch")
