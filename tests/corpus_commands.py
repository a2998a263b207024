"""Bad and odd inputs at the level of the commands, and `.tflite` files: see `corpus.py`."""

import dataclasses
import functools
import itertools
import json
import os
import runpy
import sys
import zipfile

import corpus
import h5py
import numpy as np
from conftest import ROOT
from corpus import HOSTILE_NAMES, Case, damaged_bytes
from PIL import Image

from convmixer_keras.commands import convert, onnx, predict, publish, tflite, train
from convmixer_keras.convert.export import runtime
from convmixer_keras.convert.export.tflite import export
from convmixer_keras.images import preprocessing
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import saving
from convmixer_keras.utils import command_line

NAMES = ["a", "b", "c"]
IMAGE = np.zeros((1, 8, 8, 3), np.float32)


def good_keras(folder):
    path = os.path.join(folder, "good.keras")
    saving.save_model(corpus.small_model(), path, NAMES, Preprocessing(8))
    return path


@functools.cache
def good_tflite(folder):
    """Returns the bytes of an exported file, and those of its network alone."""
    path = os.path.join(folder, "good.tflite")
    export(corpus.small_model(), path, labels=NAMES, preprocessing=Preprocessing(8))
    with open(path, "rb") as file:
        content = file.read()
    with zipfile.ZipFile(path) as archive:
        network = content[: min(entry.header_offset for entry in archive.infolist())]
    return content, network


def with_entries(path, network, entries, method=zipfile.ZIP_STORED):
    """Writes a `.tflite` file with an archive of other entries."""
    with open(path, "wb") as file:
        file.write(network)
    with zipfile.ZipFile(path, "a", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def odd_paths(folder, ending):
    """Paths of what is no regular file, or of none."""
    names = ["/dev/zero", "/dev/null", folder, "", "x" * 300 + ending, "a\0b" + ending, "none" + ending]
    names += ["\x1b[31mnone" + ending, "/proc/self/mem", os.path.join(folder, "good.keras", "x" + ending)]
    names += [os.path.join(folder, os.fsdecode(b"none\xff") + ending), "\ud800" + ending]
    for kind in ("fifo", "loop"):
        path = os.path.join(folder, kind + ending)
        if not os.path.lexists(path):
            os.mkfifo(path) if kind == "fifo" else os.symlink(os.path.basename(path), path)
        names.append(path)
    return names


# -- .tflite files --


def tflite_cases(folder, count=60):
    """`.tflite` files of this package, opened and run."""
    content, network = good_tflite(folder)
    paths = []

    def new(name):
        paths.append((name, os.path.join(folder, f"{len(paths)}.tflite")))
        return paths[-1][1]

    for name, damaged in damaged_bytes(content, 11, count):
        with open(new(name), "wb") as file:
            file.write(damaged)
    for name, damaged in itertools.islice(damaged_bytes(network, 12, count), 0, None, 3):  # Cut: no checksum.
        with open(new(f"network {name}"), "wb") as file:
            file.write(damaged)
    texts = [b"", b"{", b"[]", b"3", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"a": 1}']
    for entry, text in itertools.product((runtime.INPUT_ENTRY, preprocessing.ENTRY), texts):
        with_entries(new(f"{entry} {text[:10]}"), network, {entry: text})
    for field, value in itertools.product(
        ("takes_pixels", "network"), (3, "x", [], {}, {"bytes": -1}, {"bytes": 1e99}, {"crc32": 1})
    ):
        with_entries(new(f"{field}={value}"), network, {runtime.INPUT_ENTRY: json.dumps({field: value})})
    for field, value in itertools.product(dataclasses.asdict(Preprocessing()), (None, -1, "x", [], 1e300)):
        record = dataclasses.asdict(Preprocessing(8)) | {field: value}
        with_entries(new(f"{field}={value}"), network, {preprocessing.ENTRY: json.dumps(record)})
    for name, labels in {
        "too few": b"a\nb\n",
        "too many": b"a\n" * 50,
        "none": b"",
        "not UTF-8": b"\xff\n\xfe\n\xfd\n",
        "hostile": "\n".join(["\x1b[31m", "\u202e", "x" * 5000]).encode(),
    }.items():
        with_entries(new(f"{name} labels"), network, {runtime.LABELS_ENTRY: labels})
    bomb = {runtime.LABELS_ENTRY: bytes(300 * 2**20)}
    with_entries(new("a bomb"), network, bomb, zipfile.ZIP_DEFLATED)
    for name, changed in (
        ("encrypted", corpus.with_flags(content, 1)),
        ("99", corpus.with_method(content, 99)),
    ):
        with open(new(name), "wb") as file:
            file.write(changed)
    for name, path in paths:
        yield Case(f"tflite {name}", lambda p=path: runtime.Classifier(p).predict(IMAGE))
        yield Case(f"record of tflite {name}", lambda p=path: preprocessing.of(p))
    for path in odd_paths(folder, ".tflite"):
        yield Case(f"tflite {path[:30]!r}", lambda p=path: runtime.Classifier(p))
        yield Case(f"record of tflite {path[:30]!r}", lambda p=path: preprocessing.of(p))


# -- convmixer-tflite --


def tflite_command_cases(folder):
    good, out = good_keras(folder), os.path.join(folder, "out.tflite")
    labels = {
        "few": b"a\nb\n",
        "many": b"a\n" * 1000,
        "empty": b"",
        "empty lines": b"a\n\nb\n",
        "not UTF-8": b"\xff\xfe",
        "huge": b"a" * (2**24 + 1),
    }
    for name, content in labels.items():
        path = os.path.join(folder, f"{name}.txt")
        with open(path, "wb") as file:
            file.write(content)
        yield _tflite(f"labels {name}", good, out, "--labels", path)
    for path in odd_paths(folder, ".txt"):
        yield _tflite(f"labels {path[:30]!r}", good, out, "--labels", path)
    for path in odd_paths(folder, ".tflite"):
        if "none" not in os.path.basename(path):  # Which can be written.
            yield _tflite(f"output {path[:30]!r}", good, path)
    for path in (good, "out.keras", "gs://bucket/out.tflite", "nowhere/out.tflite", "/proc/out.tflite"):
        yield _tflite(f"output {path[-20:]}", good, path)
    for source in (*odd_paths(folder, ""), "phots/", "\x1b[31m", "nonsense", "a/b/c"):
        yield _tflite(f"calibrate {source[:30]!r}", good, out, "--mode", "int8", "--calibrate", source)
    numbers = ("nan", "inf", "-1", "1e999", "9" * 5000, "", "x", "2", "\x1b[31m")
    for flag, value in itertools.product(("--crop-pct", "--mean", "--std"), numbers):
        yield _tflite(f"{flag} {value[:20]!r}", good, out, f"{flag}={value}")
    for sizes in (
        ("1", "1"),
        ("1000000000", "1000000000"),
        ("0", "0"),
        ("-1", "8"),
        ("99999", "99999"),
        ("9" * 30, "8"),
        ("8", "8", "8"),
        ("x", "8"),
        ("0", "9"),
    ):
        yield _tflite(f"--image-size {sizes}", good, out, "--image-size", "x".join(sizes))
    for flags in (
        ["--mode", "int4"],
        ["--mode", ""],
        ["--interpolation", "x"],
        ["--nonsense"],
        ["--mode", "int8"],
    ):
        yield _tflite(" ".join(flags), good, out, *flags)
    not_ours = os.path.join(folder, "text.keras")
    with open(not_ours, "w") as file:
        file.write("no model")
    yield _tflite("a text", not_ours, out)


def _command(module, name, *arguments):
    """A command as its users run it, but in this process."""
    title = f"{module.__name__.rpartition('.')[2]} {name}"
    return Case(title, lambda: command_line.run(lambda: module.main(list(arguments))))


def _script(script, name, *arguments):
    """A script of examples/, the same way."""

    def run():
        before, sys.argv = sys.argv, [script, *arguments]
        try:
            runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
        finally:
            sys.argv = before

    return Case(f"{script} {name}", run)


_tflite = functools.partial(_command, tflite)


def odd_models(folder):
    """Pairs of name and path: `.keras` files that Keras loads, and that are no plain ConvMixer."""
    import keras

    import convmixer_keras as ck

    x = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(x)
    models = {
        "no ConvMixer": keras.Model(x, keras.layers.Dense(3)(flat)),
        "two outputs": keras.Model(x, [keras.layers.Dense(3)(flat), flat]),
        "two inputs": keras.Model([x, y := keras.Input((8, 8, 3))], keras.layers.Add()([x, y])),
        "no layers": keras.Model(x, x),
        "text for an input": keras.Model(t := keras.Input((3,)), keras.layers.Dense(2)(t)),
        "a hostile name": keras.Model(x, keras.layers.Dense(3, name="\x1b[31mred\nline")(flat)),
        "a batch of four": keras.Model(b := keras.Input(batch_shape=(4, 8, 8, 3)), corpus.small_model()(b)),
        "a ConvMixer within": keras.Model(x, keras.layers.Softmax()(corpus.small_model()(x))),
        "a sequence": keras.Sequential([keras.Input((8, 8, 3)), corpus.small_model()]),
        "a sequence within": keras.Sequential(
            [keras.Sequential([keras.Input((8, 8, 3)), corpus.small_model()])]
        ),
        "free channels": keras.Model(f := keras.Input((8, 8, None)), keras.layers.GlobalMaxPool2D()(f)),
        "no classes": ck.ConvMixer(4, 1, 3, 2, include_top=False, input_shape=(8, 8, 3)),
        "one class": ck.ConvMixer(4, 1, 3, 2, classes=1, input_shape=(8, 8, 3)),
        "a size that is open": ck.ConvMixer(4, 1, 3, 2, classes=3, input_shape=(None, None, 3)),
        "an input of whole numbers": keras.Model(
            i := keras.Input((8, 8, 3), dtype="uint8"), corpus.small_model()(keras.ops.cast(i, "float32"))
        ),
    }
    not_a_number = corpus.small_model()
    not_a_number.set_weights([np.full_like(w, np.nan) for w in not_a_number.get_weights()])
    models["weights that are no numbers"] = not_a_number
    for number, (name, model) in enumerate(models.items()):
        path = os.path.join(folder, f"odd{number}.keras")
        model.save(path)
        yield name, path


# -- convmixer-convert --


def convert_command_cases(folder, count=30):
    import torch

    good, out = good_keras(folder), os.path.join(folder, "converted.keras")
    checkpoint = os.path.join(folder, "good.pth")
    state = {"0.weight": torch.zeros(4, 3, 2, 2), "0.bias": torch.zeros(4)}
    torch.save(state, checkpoint)
    for ending in (".pth", ".safetensors", ".keras", ".weights.h5", ".h5", ".tar"):
        for path in odd_paths(folder, ending):
            yield _convert(f"input {path[:20]!r} {ending}", path, out)
    for path in odd_paths(folder, ".keras"):
        yield _convert(f"output {path[:30]!r}", checkpoint, path)
    for path in odd_paths(folder, ".safetensors"):
        if "none" not in os.path.basename(path):
            yield _convert(f"output {path[:30]!r}", good, path, "--to", "timm")
    for arguments in (
        (good, good, "--to", "timm"),
        (checkpoint, checkpoint),
        (good, out),
        (good, "x.onnx"),
        (good, "gs://bucket/x.pth", "--to", "timm"),
        (good, "x.pth", "--to", "nonsense"),
        (good, "x.pth", "--to", "timm", "--classes", "3"),
        (checkpoint, out, "--images", "nowhere"),
        (checkpoint, out, "--images", folder),
        ("hf://", out),
        ("hf://../..", out),
    ):
        yield _convert(" ".join(arguments)[-40:], *arguments)
    numbers = ("nan", "inf", "-1", "0", "1000000000", "1e999", "9" * 5000, "", "x", "\x1b[31m")
    flags = ("--epsilon", "--classes", "--image-size", "--mean", "--std", "--crop-pct")
    for flag, value in itertools.product(flags, numbers):
        yield _convert(f"{flag} {value[:20]!r}", checkpoint, out, f"{flag}={value}")
    for flag, value in (("--activation", "glu"), ("--variant", "x"), ("--to", ""), ("--mean", "0.5")):
        yield _convert(f"{flag} {value}", checkpoint, out, flag, value)
    for name, tensors in hostile_states(torch):
        path = os.path.join(folder, f"{len(os.listdir(folder))}.pth")
        torch.save(tensors, path)
        yield _convert(f"a checkpoint with {name}", path, out)
    for name, path in foreign_h5(folder, count):
        yield _convert(name, path, out, "--epsilon", "1e-5")


_convert = functools.partial(_command, convert)


def hostile_states(torch):
    """Pairs of name and state dict: right shapes under wrong names, and wrong shapes under right names."""
    for name in HOSTILE_NAMES:
        yield f"the name {name[:10]!r}", {name: torch.zeros(2), f"{name}.weight": torch.zeros(4, 3, 2, 2)}
        yield f"the entry {name[:10]!r}", {name: {"a": "b"}, "more": 3}
    circle = {"w": torch.zeros(2)}
    yield "itself as an entry", circle | {"more": circle}
    circle["state_dict"] = circle
    yield "itself as the weights", circle
    circle = [torch.zeros(2)]
    circle.append(circle)
    yield "a list that holds itself", {"model": circle, "w": torch.zeros(2)}
    timm = {"stem.0.weight": (4, 3, 2, 2), "stem.0.bias": (4,), "head.weight": (3, 4), "head.bias": (3,)}
    timm |= {f"stem.2.{n}": (4,) for n in ("weight", "bias", "running_mean", "running_var")}
    for name, shape in itertools.product(timm, ((), (0,), (4,), (4, 3, 2, 2), (1, 1, 1, 1, 1), (3, 4))):
        yield f"{name} of {shape}", {n: torch.zeros(shape if n == name else s) for n, s in timm.items()}


def foreign_h5(folder, count):
    """Pairs of name and path: weights files as other Keras programs might leave them."""
    whole = os.path.join(folder, "whole.weights.h5")
    corpus.small_model().save_weights(whole)
    with open(whole, "rb") as file:
        content = file.read()
    for name, damaged in damaged_bytes(content, 13, count):
        path = os.path.join(folder, f"{name}.weights.h5")
        with open(path, "wb") as file:
            file.write(damaged)
        yield f"HDF5 {name}", path
    for number, (shape, dtype) in enumerate(
        itertools.product(((), (0,), (4,), (1, 1), (3, 3, 3, 4), (1, 1, 1, 1, 1)), ("f4", "i8", "S5", "f2"))
    ):
        path = os.path.join(folder, f"shape{number}.weights.h5")
        with h5py.File(path, "w") as file:
            for layer in ("conv2d", "depthwise_conv2d", "dense", "batch_normalization"):
                file.create_dataset(f"layers/{layer}/vars/0", shape, dtype)
        yield f"HDF5 of {dtype} {shape}", path
    for number, attribute in enumerate((b"\xff", "{", "[" * 50_000, 3, "[]")):
        path = os.path.join(folder, f"attribute{number}.h5")
        with h5py.File(path, "w", track_order=True) as file:
            file.attrs["model_config"] = attribute
            file.attrs["layer_names"] = [b"\x1b[31m", b"none"]
        yield f"HDF5 with the configuration {str(attribute)[:10]}", path


# -- every command --


def model_command_cases(folder):
    """Every command that takes a model, with every odd model and every odd path."""
    photo = os.path.join(folder, "photo.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photo)
    good_tflite(folder)
    with open(os.path.join(folder, "cut.tflite"), "wb") as file:
        file.write(good_tflite(folder)[0][:1000])
    # Names with a line end, such as a model's, must not become lines.
    commands = {
        "tflite": lambda name, path: _tflite(name, path, os.path.join(folder, "x.tflite")),
        "onnx": lambda name, path: _command(onnx, name, path, os.path.join(folder, "x.onnx")),
        "publish": lambda name, path: _command(publish, name, path, os.path.join(folder, "page")),
        "timm": lambda name, path: _convert(
            name, path, os.path.join(folder, "x.safetensors"), "--to", "timm"
        ),
        "keras": lambda name, path: _convert(name, path, os.path.join(folder, "x.keras")),
        "evaluate": lambda name, path: _command(train, name, "--evaluate", path, "--dataset", folder),
        "init": lambda name, path: _command(train, name, f"--init-from={path}", "--dataset", "none/"),
        "predict": lambda name, path: _command(predict, name, photo, f"--model={path}"),
        "explain": lambda name, path: _script(
            "explain.py", name, path, "--output", os.path.join(folder, "e")
        ),
    }
    models = [*odd_models(folder), *((f"{path[:30]!r}", path) for path in odd_paths(folder, ".keras"))]
    for command, (name, path) in itertools.product(commands.values(), models):
        yield command(name, path or "none.keras")
    for path in (*odd_paths(folder, ".tflite"), os.path.join(folder, "cut.tflite")):
        yield _script("on_device.py", f"{path[:30]!r}", photo, f"--model={path}")
        yield _command(predict, f"{path[:30]!r}", photo, f"--model={path}")
    for path in odd_paths(folder, ".png"):
        yield _script("on_device.py", f"photo {path[:30]!r}", "--", path)
        yield _command(predict, f"photo {path[:30]!r}", "--model", good_keras(folder), "--", path)
    for case in corpus.image_cases(folder, 16):
        if case.path:
            yield _script("on_device.py", case.name, case.path)


# -- the training program --


def evaluate_command_cases(folder):
    """Models to evaluate, and folders of runs to go on with."""
    good_keras(folder)
    _, network = good_tflite(folder)
    few = os.path.join(folder, "few.tflite")
    with_entries(few, network, {runtime.LABELS_ENTRY: b"a\nb\n"})
    for path in (*odd_paths(folder, ".keras"), *odd_paths(folder, ".tflite"), few):
        yield _command(train, f"--evaluate {path[:30]!r}", "--evaluate", path)
    for path in (*odd_paths(folder, ".keras"), *odd_paths(folder, ".weights.h5")):
        start = ["--init-from", path or "none.keras", "--output", "run"]
        yield _command(train, f"--init-from {path[:30]!r}", *start)
    for name in ("config.json", "history.csv"):
        for path in odd_paths(folder, name):
            run = os.path.join(folder, f"run{len(os.listdir(folder))}")
            os.makedirs(run)
            if path and os.path.lexists(path):
                os.symlink(path, os.path.join(run, name))
            yield _command(train, f"--resume with {name} {path[:30]!r}", "--resume", "--output", run)
    for flag, value in itertools.product(
        (
            "--image-size",
            "--hidden-dim",
            "--patch-size",
            "--kernel-size",
            "--depth",
            "--batch-size",
            "--freeze",
        ),
        ("0", "-1", "1000000000"),
    ):
        yield _command(train, f"{flag} {value}", f"{flag}={value}", "--dataset", "none/")
