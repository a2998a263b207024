#!/usr/bin/env python3
"""Times one ConvMixer on the CPU: our .tflite files, the stock converter's, kimm's, and other runtimes.

  python benchmarks/tflite_latency.py                                     ConvMixer-1024/20, as in the README
  python benchmarks/tflite_latency.py --network ConvMixer768_32 --threads 1

Batch 1, random weights (the time does not depend on them), normalised channels in and logits out. All
candidates take turns in every round, so that whatever else the machine does meets all of them. Needs the
extra "bench".
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from timm_package import import_timm

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
    parser.add_argument("--rounds", type=int, default=9, help="turns of each candidate (default: 9)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4], help="(default: 1 4)")
    arguments = parser.parse_args()

    preset = next(preset for preset in ck.presets.PRESETS if preset.name == arguments.network)
    model = getattr(ck, preset.name)()
    image = np.random.default_rng(0).normal(size=(1, *model.input_shape[1:])).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(model, image, folder)
        if preset.name in KIMM:
            files |= write_kimms(KIMM[preset.name], image, folder)
        network = torch_network(preset)
        onnx = write_onnx(network, image, folder)
        columns = {}
        for threads in arguments.threads:
            runners = {name: tflite_runner(path, image, threads) for name, path in files.items()}
            runners["ONNX Runtime float32"] = onnx_runner(onnx, image, threads)
            runners["OpenVINO float32"] = openvino_runner(onnx, image, threads)
            runners["PyTorch float32"] = torch_runner(network, image, threads)
            columns[threads] = race(runners, arguments.rounds)
        sizes = {name: os.path.getsize(path) / 1e6 for name, path in files.items()}
    print_table(arguments.network, columns, sizes)


def write_files(model, image, folder):
    """Returns the path of each `.tflite` file by what it is."""
    files = {}
    for mode in tflite.MODES:
        files[f"stock {mode}"] = os.path.join(folder, f"stock_{mode}.tflite")
        with open(files[f"stock {mode}"], "wb") as file:
            file.write(stock_export(model, image, mode))
    for mode in tflite.MODES:
        files[f"ours {mode}"] = os.path.join(folder, f"ours_{mode}.tflite")
        tflite.export(model, files[f"ours {mode}"], mode, calibration=image, logits=True)
    return files


def write_kimms(name, image, folder):
    """As `write_files`, by kimm's own export of its own network."""
    import kimm

    files = {}
    model = getattr(kimm.models, name)(weights=None)
    for mode in ("float32", "float16", "int8"):  # It has no dynamic.
        files[f"kimm {mode}"] = os.path.join(folder, f"kimm_{mode}.tflite")
        samples = (lambda: [[image]]) if mode == "int8" else None
        kimm.export.export_tflite(model, image.shape[1:], files[f"kimm {mode}"], mode, samples)
    return files


def stock_export(model, image, mode):
    """What TensorFlow's own documentation says to write for each mode."""
    import keras
    import tensorflow as tf

    # A batch of one, as ours: with a free batch the converter leaves shapes to be computed at run time.
    one = keras.Input(batch_shape=image.shape)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(one, model(one)))
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int8":
        converter.representative_dataset = lambda: [[image]]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def torch_network(preset):
    """The same network in PyTorch, timm's."""
    import_timm()
    from timm.models.convmixer import ConvMixer
    from torch import nn

    activation = nn.ReLU if preset.activation == "relu" else nn.GELU
    sizes = (preset.hidden_dim, preset.depth, preset.kernel_size, preset.patch_size)
    return ConvMixer(*sizes, num_classes=preset.classes, act_layer=activation).eval()


def write_onnx(network, image, folder):
    import torch

    path = os.path.join(folder, "network.onnx")
    with warnings.catch_warnings():
        # The newer exporter needs one more package.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(network, (torch.from_numpy(image).movedim(-1, 1),), path, dynamo=False)
    return path


def tflite_runner(path, image, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    (detail,) = interpreter.get_input_details()
    if detail["dtype"] != np.float32:
        scale, zero = detail["quantization"]
        limits = np.iinfo(detail["dtype"])
        image = np.clip(np.round(image / scale + zero), limits.min, limits.max).astype(detail["dtype"])
    interpreter.set_tensor(detail["index"], image)
    return interpreter.invoke


def onnx_runner(path, image, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = [argument.name for argument in session.get_inputs()]
    image = np.ascontiguousarray(np.moveaxis(image, -1, 1))
    return lambda: session.run(None, {name: image})


def openvino_runner(path, image, threads):
    import openvino

    core = openvino.Core()
    # float32, as the others: on some CPUs it would compute in bfloat16 unasked.
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
    image = np.ascontiguousarray(np.moveaxis(image, -1, 1))
    return lambda: request.infer([image])


def torch_runner(network, image, threads):
    import torch

    network = network.to(memory_format=torch.channels_last)
    image = torch.from_numpy(image).movedim(-1, 1)

    def run():
        torch.set_num_threads(threads)
        with torch.inference_mode():
            network(image)

    return run


def race(runners, rounds):
    """Returns each candidate's median in milliseconds."""
    times = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            time.sleep(0.05)  # Threads of the one before may wait actively for more work.
            run()  # It has also emptied the caches.
            for _ in range(RUNS_A_TURN):
                start = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(network, columns, sizes):
    """Prints milliseconds, and how many times faster than the stock float32 file, as a Markdown table."""
    heads = [cell for threads in columns for cell in (f"ms, {threads} thr.", "times faster")]
    print(f"\n{network}, batch 1\n")
    print(f"| {'':24} | " + " | ".join(heads) + " | MB |")
    print("| --- |" + " ---: |" * (len(heads) + 1))
    for name in next(iter(columns.values())):
        cells = []
        for times in columns.values():
            cells += [f"{times[name]:.1f}", f"{times['stock float32'] / times[name]:.2f}"]
        size = f"{sizes[name]:.1f}" if name in sizes else ""
        print(f"| {name:24} | " + " | ".join(cells) + f" | {size} |")


if __name__ == "__main__":
    main()
