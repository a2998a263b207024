#!/usr/bin/env python3
"""Times one ConvMixer on the CPU: our .tflite files, the stock converter's, kimm's, and other runtimes.

  python benchmarks/tflite_latency.py                                     ConvMixer-1024/20, as in the README
  python benchmarks/tflite_latency.py --network ConvMixer768_32 --threads 1
  python benchmarks/tflite_latency.py --network ConvMixer256_8_P2 --images cifar10-jpeg/test --checked 1000
                                                                          the agreement of trained weights

Batch 1, normalised channels in and logits out. The network has the weights that are part of the package, or
else random ones, on which the time does not depend; its normalisations then take the statistics of the
images, so that it tells them apart. All candidates take turns in every round, so that whatever else the
machine does meets all of them.
"Same top-1" counts the images whose answer is that of the Keras model; int8 is calibrated on other images.
Needs the extra "bench".
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from other_runtimes import (
    onnx_runner,
    openvino_precision,
    openvino_runner,
    torch_network,
    torch_runner,
    write_onnx,
    write_onnx_int8,
    write_openvino_int8,
)

import convmixer_keras as ck
from convmixer_keras.convert.export import tflite

RUNS_A_TURN = 3
# kimm's names of the networks.
KIMM = {
    "ConvMixer1536_20": "ConvMixer1536D20",
    "ConvMixer768_32": "ConvMixer736D32",
    "ConvMixer1024_20": "ConvMixer1024D20",
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [preset.name for preset in ck.presets.PRESETS]
    parser.add_argument("--network", choices=names, default="ConvMixer1024_20")
    parser.add_argument("--images", metavar="FOLDER", help="photographs to calibrate and check with")
    parser.add_argument("--checked", type=int, default=24, help="images whose answers count (default: 24)")
    parser.add_argument("--calibration", type=int, default=64, help="others, for int8 (default: 64)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each candidate (default: 9)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4], help="(default: 1 4)")
    parser.add_argument("--skip", nargs="+", default=[], metavar="NAME", help="leave out: --skip stock kimm")
    arguments = parser.parse_args()

    preset = next(preset for preset in ck.presets.PRESETS if preset.name == arguments.network)
    is_trained = preset.weights == "cifar10"
    model = getattr(ck, preset.name)(weights=preset.weights if is_trained else None)
    images = photographs(arguments.images, preset, arguments.checked + arguments.calibration)
    checked, calibration = images[: arguments.checked], images[arguments.checked :]
    if not is_trained:
        take_statistics(model, calibration)
    truth = model.predict(checked, batch_size=1, verbose=0).argmax(-1)
    if len(set(truth)) < min(6, preset.classes):
        parser.error(
            f"the network gives {len(truth)} images {len(set(truth))} answers: to agree says nothing"
        )
    image = checked[:1]
    columns, same = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):  # Keras' export prints each of its tensors.
            files = write_files(model, calibration, folder)
            if preset.name in KIMM:
                files |= write_kimms(KIMM[preset.name], image, folder)
        network = torch_network(model, preset)
        onnx = write_onnx(network, image, folder)
        onnx_int8 = write_onnx_int8(onnx, calibration)
        openvino_int8 = write_openvino_int8(onnx, calibration, preset.activation)
        for threads in arguments.threads:
            runners = {name: tflite_runner(path, threads) for name, path in files.items()}
            runners["ONNX Runtime float32"] = onnx_runner(onnx, threads)
            runners["ONNX Runtime int8"] = onnx_runner(onnx_int8, threads)
            runners["OpenVINO float32"] = openvino_runner(onnx, threads, "f32")
            runners[f"OpenVINO as it comes ({openvino_precision()})"] = openvino_runner(onnx, threads)
            runners["OpenVINO int8 (NNCF)"] = openvino_runner(openvino_int8, threads)
            runners["PyTorch float32, eager"] = torch_runner(network, threads)
            runners = {name: runners[name] for name in runners if not name.startswith(tuple(arguments.skip))}
            same = {
                name: sum(int(run(one[None]).argmax() == t) for one, t in zip(checked, truth, strict=True))
                for name, run in runners.items()
                if not name.startswith("kimm")  # Of other weights.
            }
            columns[threads] = race(runners, image, arguments.rounds)
        sizes = {name: os.path.getsize(path) / 1e6 for name, path in files.items()}
    print_table(arguments.network, columns, same, len(checked), sizes)


def photographs(folder, preset, count):
    """Returns normalised photographs of a folder, from all over it, or noise: (count, size, size, 3)."""
    size = preset.image_size
    if folder is None:
        return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)
    import glob

    paths = sorted(glob.glob(os.path.join(folder, "**", "*.*"), recursive=True))
    if len(paths) < count:
        raise SystemExit(f"error: {folder} must hold at least {count} images, and holds {len(paths)}")
    paths = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:count]]
    record = ck.preprocessing.Preprocessing(
        size, 3, preset.crop_pct, preset.interpolation, preset.orientation, preset.mean, preset.std
    )
    return np.stack([record(path) for path in paths])


def take_statistics(model, images):
    """Lets the normalisations take mean and variance of images, as after training."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)


def write_files(model, calibration, folder):
    """Returns the path of each `.tflite` file by what it is."""
    files = {}
    for mode in tflite.MODES:
        files[f"stock {mode}"] = os.path.join(folder, f"stock_{mode}.tflite")
        with open(files[f"stock {mode}"], "wb") as file:
            file.write(stock_export(model, calibration, mode))
    for mode in tflite.MODES:
        files[f"ours {mode}"] = os.path.join(folder, f"ours_{mode}.tflite")
        tflite.export(model, files[f"ours {mode}"], mode, calibration=calibration, logits=True)
    return files


def write_kimms(name, image, folder):
    """As `write_files`, by kimm's own export of its own network."""
    import kimm

    files = {}
    model = getattr(kimm.models, name)(
        weights=None, include_preprocessing=False, classifier_activation="linear"
    )
    for mode in ("float32", "float16", "int8"):  # It has no dynamic.
        files[f"kimm {mode}"] = os.path.join(folder, f"kimm_{mode}.tflite")
        samples = (lambda: [[image]]) if mode == "int8" else None
        kimm.export.export_tflite(model, image.shape[1:], files[f"kimm {mode}"], mode, samples)
    return files


def stock_export(model, calibration, mode):
    """What TensorFlow's own documentation says to write for each mode."""
    import keras
    import tensorflow as tf

    # A batch of one, as ours: with a free batch the converter leaves shapes to be computed at run time.
    one = keras.Input(batch_shape=(1, *calibration.shape[1:]))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(one, model(one)))
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int8":
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def tflite_runner(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    ((taken,), (given,)) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image):
        if taken["dtype"] != np.float32:
            scale, zero = taken["quantization"]
            limits = np.iinfo(taken["dtype"])
            image = np.clip(np.round(image / scale + zero), limits.min, limits.max).astype(taken["dtype"])
        interpreter.set_tensor(taken["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])

    return run


def race(runners, image, rounds):
    """Returns each candidate's median in milliseconds."""
    times = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            time.sleep(0.05)  # Threads of the one before may wait actively for more work.
            run(image)  # It has also emptied the caches.
            for _ in range(RUNS_A_TURN):
                start = time.perf_counter()
                run(image)
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(network, columns, same, checked, sizes):
    """Prints milliseconds, and how many times faster than the stock float32 file, as a Markdown table."""
    heads = [cell for threads in columns for cell in (f"ms, {threads} thr.", "times faster")]
    print(f"\n{network}, batch 1\n")
    print(f"| {'':24} | " + " | ".join(heads) + " | same top-1 | MB |")
    print("| --- |" + " ---: |" * (len(heads) + 2))
    for name in next(iter(columns.values())):
        cells = []
        for times in columns.values():
            baseline = times.get("stock float32")
            cells += [f"{times[name]:.1f}", f"{baseline / times[name]:.2f}" if baseline else ""]
        size = f"{sizes[name]:.1f}" if name in sizes else ""
        agreement = f"{same[name]} of {checked}" if name in same else ""
        print(f"| {name:24} | " + " | ".join(cells) + f" | {agreement} | {size} |")


if __name__ == "__main__":
    main()
