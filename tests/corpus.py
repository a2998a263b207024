"""Bad and odd inputs by kind, made anew each time from a seed.

A case is a name and a function without arguments that hands the input to the package. What is right for it
is that it works, or that it raises one of the package's own errors, or TypeError for an argument of a wrong
type, with a message of one line. Anything else is a defect: a traceback of another kind above all, a case
that takes over a minute or over a gigabyte, and control characters in what is printed.
"""

import io
import itertools
import json
import os
import random
import struct
import zipfile
from typing import NamedTuple

import h5py
import keras
import numpy as np
from PIL import Image, PngImagePlugin

import convmixer_keras as ck
from convmixer_keras import recipes
from convmixer_keras.images import preprocessing
from convmixer_keras.models import saving, weights
from convmixer_keras.training.run.run_folder import RunFolder
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils import files

ODD = (
    None,
    True,
    0,
    -1,
    3,
    2**31,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "123",
    "\x1b[31m",
    b"x",
    (),
    [],
    [1, 2, 3],
    {},
    {"a": 1},
    object,
    np.nan,
    np.zeros(3),
    np.array(["x"]),
)
HOSTILE_NAMES = ("\x1b]0;title\x07", "two\nlines", "\u202ereversed", "x" * 5000, "\x00", "\x9b31m")

ODD_FILES = ("/dev/zero", "/dev/null", "", "x" * 300, "a\0b", "none", "\x1b[31mnone")


class Case(NamedTuple):
    """What to hand in; `path` where that is one file."""

    name: str
    run: object
    path: str | None = None


def small_model():
    return ck.ConvMixer(4, 1, 3, 2, classes=3, input_shape=(8, 8, 3), input_mean=127, input_std=60)


# -- arguments --


def builder_cases():
    good = {
        "hidden_dim": 4,
        "depth": 1,
        "kernel_size": 3,
        "patch_size": 2,
        "classes": 3,
        "input_shape": (8, 8, 3),
    }
    names = ("hidden_dim", "depth", "kernel_size", "patch_size", "activation", "normalization", "residual")
    names += ("input_mean", "include_top", "weights", "input_shape", "pooling", "classes")
    names += ("classifier_activation",)
    for name, value in itertools.product(names, ODD):
        extra = {"input_std": 60} if name == "input_mean" else {}
        yield Case(
            f"ConvMixer({name}={value!r:.40})",
            lambda n=name, v=value, e=extra: ck.ConvMixer(**{**good, **e, n: v}),
        )
    for name in ("glu", "nonsense", "Conv2D", "../x"):
        yield Case(f"activation {name}", lambda n=name: ck.ConvMixer(**{**good, "activation": n}))
    for value in (float("nan"), float("inf"), "123", 0, -1, [1, 2], [[1]], [None]):
        yield Case(f"input_std={value}", lambda v=value: ck.ConvMixer(**good, input_mean=127, input_std=v))
    for value in ("no", 1, None):
        yield Case(
            f"include_preprocessing={value!r}", lambda v=value: ck.ConvMixer256_8(include_preprocessing=v)
        )


def recipe_cases():
    import dataclasses

    for field, value in itertools.product(dataclasses.fields(recipes.Recipe), ODD):
        yield Case(
            f"Recipe({field.name}={value!r:.40})", lambda n=field.name, v=value: recipes.Recipe(**{n: v})
        )
    for field, value in itertools.product(dataclasses.fields(Settings), ODD):
        yield Case(f"Settings({field.name}={value!r:.40})", lambda n=field.name, v=value: Settings(**{n: v}))


def flag_cases(folder):
    """Command lines of the training program, none of which may begin to train."""
    from convmixer_keras.commands import train

    numbers = ("nan", "inf", "-inf", "-1", "1e999", "9" * 5000, "", "x", "0x10", "1.5.2", "\x1b[31m")
    for flag, value in itertools.product(
        (
            "--epochs",
            "--batch-size",
            "--hidden-dim",
            "--depth",
            "--patch-size",
            "--kernel-size",
            "--image-size",
        ),
        (*numbers, "0", "4294967296"),
    ):
        yield Case(f"{flag} {value[:20]!r}", lambda f=flag, v=value: train.parse([f"{f}={v}"]))
    for flag, value in itertools.product(
        ("--learning-rate", "--weight-decay", "--clip-norm", "--crop-pct", "--mixup-alpha", "--peer-timeout"),
        numbers,
    ):
        if value != "0x10":
            yield Case(f"{flag} {value[:20]!r}", lambda f=flag, v=value: train.main([f"{f}={v}", *_NEVER]))
    others = [
        ["--seed", "4294967296"],
        ["--activation", "glu"],
        ["--output", ""],
        ["--output", "gs://bucket/run"],
        ["--output", "x" * 300],
        ["--output", "/dev/zero"],
        ["--evaluate", ""],
        ["--evaluate", "/dev/zero"],
        ["--evaluate", os.path.join(folder, "fifo")],
        ["--evaluate", os.path.join(folder, "loop")],
        ["--evaluate", "y" * 300 + ".keras"],
        ["--preview", ""],
        ["--preview", "z" * 300 + ".png"],
        ["--dataset", ""],
        ["--dataset", "phots/"],
        ["--dataset", os.path.join(folder, "loop")],
        ["--resume", "--recipe", "imagenet"],
        ["--report", "x"],
        ["--strategy", "none"],
        ["--resume", "--overwrite"],
        ["--mean"],
        ["--mean", "a"],
        ["--train-split", "train[50%]"],
        ["--train-split", f"train[:{'9' * 5000}]"],
        ["--train-split", "\x1b[31m[:5]"],
        ["--validation-split", "test[:0%]"],
        ["--validation-split", "train[:5]"],
        ["--test-split", "test"],
        ["--test-split", "\x1b[31m"],
        ["--recipe", "\x1b[31m"],
    ]
    for arguments in others:
        yield Case(" ".join(arguments)[:60], lambda a=arguments: train.main([*a, *_unless(a, _NEVER)]))


_NEVER = ["--hidden-dim", "0"]  # Refused when everything else was right.


def _unless(arguments, more):
    return [] if arguments[0] in ("--evaluate", "--resume", "--dataset", "--output") else more


# -- files of ours --


def _entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(path, entries, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def damaged_bytes(content, seed, count):
    """Files cut short, with bytes turned over, and of nothing but noise."""
    draws = random.Random(seed)
    for i in range(count):
        kind = i % 3
        if kind == 0:
            yield f"cut {i}", content[: draws.randrange(len(content))]
        elif kind == 1:
            changed = bytearray(content)
            for _ in range(draws.choice((1, 8, 64))):
                changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
            yield f"turned {i}", bytes(changed)
        else:
            yield f"noise {i}", draws.randbytes(draws.choice((0, 1, 100, 5000)))


def keras_cases(folder, count=60):
    """`.keras` files."""
    good = os.path.join(folder, "good.keras")
    ck.save_model(small_model(), good, ["a", "b", "c"])
    with open(good, "rb") as file:
        content = file.read()
    entries = _entries(good)
    paths = []

    def add(name, content):
        path = os.path.join(folder, f"{len(paths)}.keras")
        paths.append((name, path))
        if isinstance(content, dict):
            _zip(path, content)
        else:
            with open(path, "wb") as file:
                file.write(content)

    for name, damaged in damaged_bytes(content, 0, count):
        add(name, damaged)
    for missing in entries:
        add(f"without {missing}", {k: v for k, v in entries.items() if k != missing})
        add(f"empty {missing}", {**entries, missing: b""})
        add(f"array {missing}", {**entries, missing: b"[]"})
        add(f"deep {missing}", {**entries, missing: b"[" * 100_000})
    add("encrypted", with_flags(content, 1))
    add("method 99", with_method(content, 99))
    add("a bomb", b"")
    _zip(paths[-1][1], {**entries, "more": bytes(300 * 2**20)}, zipfile.ZIP_DEFLATED)
    config = json.loads(entries["config.json"])
    for name, changed in _changed_configs(config):
        add(name, {**entries, "config.json": json.dumps(changed).encode()})
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    bare = keras.saving.serialize_keras_object(dense)
    add("a bare Dense", {**entries, "config.json": json.dumps(bare).encode()})
    add("a huge claim", {**entries, "model.weights.h5": _claiming_h5()})
    for i, names in enumerate((5, "abc", {"a": 1}, [1, 2, 3], [["a"]], None, [*HOSTILE_NAMES][:3], ["a"])):
        add(f"class names {i}", {**entries, "class_names.json": json.dumps(names).encode()})
    add("class names in another encoding", {**entries, "class_names.json": b'["\xff"]'})
    for name, path in paths:
        yield Case(f"load_model {name}", lambda p=path: saving.load_model(p))
        yield Case(f"load_class_names {name}", lambda p=path: saving.load_class_names(p))
        yield Case(f"record of {name}", lambda p=path: preprocessing.of(p))
    for name, path in paths[::4]:
        yield Case(f"weights of {name}", lambda p=path: weights.load_weights(small_model(), p))
    for path in (*ODD_FILES, folder, os.path.join(folder, "fifo"), os.path.join(folder, "loop")):
        yield Case(f"load_model {path[:30]!r}", lambda p=path: saving.load_model(p))
        yield Case(f"load_class_names {path[:30]!r}", lambda p=path: saving.load_class_names(p))
        yield Case(f"record of {path[:30]!r}", lambda p=path: preprocessing.of(p))
        yield Case(f"weights of {path[:30]!r}", lambda p=path: weights.load_weights(small_model(), p))


def with_flags(content, flag):
    """Sets a flag of every entry of a zip archive, in both of its places."""
    content = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= flag
            at = content.find(signature, at + 4)
    return bytes(content)


def with_method(content, method):
    content = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset : at + offset + 2] = struct.pack("<H", method)
            at = content.find(signature, at + 4)
    return bytes(content)


def _claiming_h5():
    """An HDF5 file of a few kilobytes whose one array would take 400 GB."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("layers/dense/vars/0", (10**6, 10**5), "f4", chunks=(1000, 1000))
    return buffer.getvalue()


def _changed_configs(config):
    text = json.dumps(config)
    for i, (old, new) in enumerate(
        (
            ('"units": 3', '"units": 1000000000'),
            ('"filters": 4', '"filters": 60000'),
            ('"filters": 4', '"filters": -4'),
            ('"filters": 4', '"filters": "many"'),
            ('"Functional"', '"Nonsense"'),
            ('"DepthwiseConv2D"', '"Lambda"'),
            ('"Dense"', '"NoSuchLayer"'),
            ('"keras.layers"', '"os"'),
            ('"gelu"', '"no_such_activation"'),
            ('"head"', '"\\u001b[31mhead"'),
            ('"float32"', '"float1"'),
        )
    ):
        yield f"config {i}", json.loads(text.replace(old, new))
    wide = text.replace('"filters": 4', '"filters": 60000').replace(", 4]", ", 60000]")
    yield "wide layers", json.loads(wide)
    yield "wide layers that do not say so", json.loads(wide.replace('"build_config"', '"built"'))


def run_folder_cases(folder):
    """config.json and history.csv."""
    contents = [
        "",
        "{}",
        "[]",
        "3",
        "null",
        "{",
        '{"recipe": 3}',
        '{"recipe": {"x": 1}}',
        "[" * 50_000,
        "\xff",
    ]
    contents += [
        '{"recipe": {"epochs": "two"}}',
        '{"recipe": {"epochs": 1e400}}',
        '{"recipe": {"mean": "x"}}',
    ]
    contents += ['{"recipe": {}, "settings": 3}', '{"recipe": {}, "settings": {"freeze": null}}']
    contents += [
        json.dumps({"recipe": {name: value}})
        for name in ("seed", "dataset", "flip")
        for value in (None, [], {})
    ]
    for i, content in enumerate(contents):
        path = os.path.join(folder, f"run{i}")
        os.makedirs(path)
        for name in ("config.json", "history.csv"):
            with open(os.path.join(path, name), "w", encoding="latin-1") as file:
                file.write(content)
        for what in ("holds_run", "recipe", "settings", "read_history"):
            yield Case(f"{what} of {content[:40]!r}", lambda p=path, w=what: getattr(RunFolder(p), w)())


# -- files of others --


def checkpoint_cases(folder, count=60):
    """PyTorch checkpoints and `.safetensors` files."""
    import torch
    from safetensors.numpy import save_file

    from convmixer_keras.convert.weights import checkpoint_file

    def opened(path):
        for stored in checkpoint_file.read_checkpoint(path).values():
            stored.read()

    good = {"0.weight": torch.zeros(4, 3, 2, 2), "0.bias": torch.zeros(4)}
    contents = {
        "a list": [1, 2],
        "a number": 3,
        "nothing": {},
        "texts": {"a": "b"},
        "numbers for names": {1: torch.zeros(2), 2.5: torch.ones(1)},
        "one number many times": {"w": torch.zeros(1).expand(10**6, 10**5)},
        "many of those": {str(i): torch.zeros(1).expand(10**7) for i in range(100)},
        "on no device": {"w": torch.empty(10**6, 10**6, device="meta")},
        "sparse": {"w": torch.eye(3).to_sparse()},
        "quantised": {"w": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)},
        "complex": {"w": torch.zeros(3, dtype=torch.complex64)},
        "whole numbers": {"w": torch.zeros(3, dtype=torch.int64)},
        "not finite": {"w": torch.tensor([float("nan"), float("inf")])},
        "hostile names": {name: torch.zeros(2) for name in HOSTILE_NAMES},
        "a tensor and a text": {**good, "x": "y"},
        "deep": {"state_dict": {"model": {"state_dict": good}}},
        "code": {"w": os.system},
    }
    paths = []
    for name, content in contents.items():
        paths.append((name, os.path.join(folder, f"{len(paths)}.pth")))
        torch.save(content, paths[-1][1])
    for legacy in (False, True):
        buffer = io.BytesIO()
        torch.save(good, buffer, _use_new_zipfile_serialization=not legacy)
        for name, damaged in damaged_bytes(buffer.getvalue(), 7 + legacy, count // 3):
            paths.append((f"pickle {name}", os.path.join(folder, f"{len(paths)}.pth")))
            with open(paths[-1][1], "wb") as file:
                file.write(damaged)
    save_file(
        {name: tensor.numpy() for name, tensor in good.items()}, os.path.join(folder, "good.safetensors")
    )
    with open(os.path.join(folder, "good.safetensors"), "rb") as file:
        content = file.read()
    for name, damaged in damaged_bytes(content, 9, count // 3):
        paths.append((f"safetensors {name}", os.path.join(folder, f"{len(paths)}.safetensors")))
        with open(paths[-1][1], "wb") as file:
            file.write(damaged)
    bomb = os.path.join(folder, "bomb.pth")
    torch.save(good, bomb)
    entries = _entries(bomb)
    _zip(bomb, {**entries, "archive/data/9": bytes(300 * 2**20)}, zipfile.ZIP_DEFLATED)
    for name, path in (*paths, ("a bomb", bomb)):
        yield Case(f"checkpoint {name}", lambda p=path: opened(p))
    for path in (*ODD_FILES, folder, os.path.join(folder, "loop"), os.path.join(folder, "fifo"), "a.onnx"):
        yield Case(f"checkpoint {path[:30]!r}", lambda p=path: opened(p))


# -- images --


def image_cases(folder, count=60):
    """Image files."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    contents = {}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "SGI"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind)
        contents |= {f"{kind} {n}": c for n, c in damaged_bytes(buffer.getvalue(), len(contents), count // 8)}
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 2**20 * 70, zip=True)
    for name, options in (
        ("large text", {"pnginfo": text}),
        ("large profile", {"icc_profile": b"x" * 2**26}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG", **options)
        contents[name] = buffer.getvalue()
    contents["a WMF"] = b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(60)
    contents["a claim of 60000x60000"] = _claiming_png(60_000, 60_000)
    contents["no pixels"] = _claiming_png(0, 0)
    for i, (name, content) in enumerate(contents.items()):
        path = os.path.join(folder, f"{i}.img")
        with open(path, "wb") as file:
            file.write(content)
        yield Case(f"image {name}", lambda p=path: preprocessing.load_image(p, 8), path)
    for path in (*ODD_FILES, folder, os.path.join(folder, "loop"), os.path.join(folder, "fifo")):
        yield Case(f"image {path[:30]!r}", lambda p=path: preprocessing.load_image(p, 8))


def _claiming_png(width, height):
    """A PNG file of a hundred bytes that says it has so many pixels."""
    import zlib

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


# -- writing --


def writing_cases(folder):
    """Names of files to write."""
    os.makedirs(os.path.join(folder, "there.keras"))
    names = ["x" * 300 + ".keras", "nowhere/m.keras", "there.keras", "loop.keras", "a\0b.keras", "fifo.keras"]
    os.symlink("loop.keras", os.path.join(folder, "loop.keras"))
    os.mkfifo(os.path.join(folder, "fifo.keras"))
    model = small_model()
    for name in (*names, ""):
        path = os.path.join(folder, name) if name else name
        yield Case(f"save_model {name[:30]!r}", lambda p=path: saving.save_model(model, p))
    for path in ("gs://bucket/m.keras", "hdfs://x/m.keras", "/proc/m.keras", "/dev/null", "m.txt"):
        yield Case(f"check_output {path}", lambda p=path: files.check_output(p, (".keras",)))


def prepare(folder):
    """Puts a FIFO and a link that leads to itself into a folder."""
    os.mkfifo(os.path.join(folder, "fifo"))
    os.symlink("loop", os.path.join(folder, "loop"))
