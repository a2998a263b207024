"""ConvMixers of other Keras packages beside this one's: logits from the same weights, and images/s.

Each package builds its own class with random weights and saves it; this package converts that file. Then
both take turns on the CPU (`predict_on_batch` at 224x224, TensorFlow), each in a process of its own. A
package that is not installed is left out.

  pip install -e ".[bench]" && python benchmarks/keras_packages.py [--batch 4] [--rounds 5]

kimm comes with it. kmodels is not on PyPI: put a clone of github.com/IMvision12/keras-vision-models on
PYTHONPATH. keras-cv builds its ConvMixer under Keras 2 only: pip install keras-cv tf-keras.
"""

import argparse
import importlib.util
import multiprocessing
import os
import pathlib
import tempfile
from functools import partial

import numpy as np
from side_by_side import print_images_per_second, seconds_per_step

SIDE = 224
# From a package to its network, its file, and the epsilon of BatchNorm where the file does not say it.
PACKAGES = {
    "kimm": ("ConvMixer-1024/20", "kimm.keras", 1e-5),
    "kmodels": ("ConvMixer-1024/20", "kmodels.keras", 1e-5),
    "keras-cv": ("ConvMixer-512/16", "keras_cv.h5", None),
}


def images(batch):
    return np.random.default_rng(0).normal(size=(batch, SIDE, SIDE, 3)).astype(np.float32)


def build(package):
    """Returns the package's own network, which takes normalised channels and ends in a softmax."""
    shape = (SIDE, SIDE, 3)
    if package == "kimm":
        from kimm.models import ConvMixer1024D20

        return ConvMixer1024D20(weights=None, include_preprocessing=False, input_shape=shape)
    if package == "kmodels":
        from kmodels.models.convmixer import ConvMixer1024D20

        return ConvMixer1024D20(weights=None, include_normalization=False, input_shape=shape)
    if importlib.util.find_spec("tf_keras") is None:
        raise ImportError("No module named 'tf_keras'")  # keras-cv does not say it.
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # Before TensorFlow is imported.
    from keras_cv.src.models.legacy.convmixer import ConvMixer_512_16

    return ConvMixer_512_16(False, True, num_classes=1000, input_shape=shape)


def randomize(model):
    """Fills in what is 0 or 1 in a new network: biases, and BatchNorm's scales and statistics."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        values = np.asarray(weight.numpy())
        if "variance" in weight.name:
            weight.assign(random.uniform(0.5, 1.5, values.shape))
        elif values.ndim == 1:
            weight.assign(values + random.normal(0, 0.1, values.shape))


def save(package, path):
    """Saves the package's network, and beside it the probabilities that it gives for two images."""
    try:
        model = build(package)
    except ImportError as error:
        print(f"{package} left out: {error}")
        return
    randomize(model)
    np.save(path.with_suffix(".npy"), model.predict_on_batch(images(2)))
    model.save(path)


def convert(path, epsilon):
    from convmixer_keras.convert.weights import to_keras

    return to_keras.convert_checkpoint(path, epsilon=epsilon)


def compare(path, epsilon):
    """Prints how far the logits are apart. Those of a softmax are known up to a constant."""

    def centered(logits):
        return logits - logits.mean(1, keepdims=True)

    theirs = centered(np.log(np.load(path.with_suffix(".npy"))))
    ours = centered(convert(path, epsilon).predict_on_batch(images(2)))
    print(f"logits: {np.abs(theirs - ours).max():.1e} apart, standard deviation {theirs.std():.2f}")


def step(make, batch):
    model = make()
    return partial(model.predict_on_batch, images(batch))


def in_a_process(function, *arguments):
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"error: {function.__name__} of {arguments} failed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for package, (network, file, epsilon) in PACKAGES.items():
            path = pathlib.Path(folder) / file
            in_a_process(save, package, path)
            if not path.exists():
                continue
            print(f"{package}, {network}")
            in_a_process(compare, path, epsilon)
            contenders = {
                "this package": partial(step, partial(convert, path, epsilon), args.batch),
                package: partial(step, partial(build, package), args.batch),
            }
            seconds = seconds_per_step(contenders, args.rounds, repeats=1)
            print_images_per_second(seconds, args.batch, reference=package)
            print(flush=True)


if __name__ == "__main__":
    main()
