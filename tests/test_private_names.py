"""The private names of Keras and TensorFlow that this package relies on: each in one file, and still there.

When one of these tests fails after an upgrade, the message says what the name was used for.
"""

import ast
import importlib
import re

import keras
import pytest
import tensorflow as tf
from conftest import ROOT
from tensorflow.python.distribute import cross_device_utils

import convmixer_keras as ck


def compiled_model():
    model = ck.ConvMixer(4, 1, 3, 2, classes=2, input_shape=(4, 4, 1))
    model.compile("sgd", "mse")
    return model


def averaging_optimizer():
    optimizer = keras.optimizers.AdamW(use_ema=True)
    optimizer.build([keras.Variable([1.0])])
    return optimizer


def distributed_dataset():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    return strategy.distribute_datasets_from_function(lambda _: tf.data.Dataset.range(3))


# Each name: the file that uses it, what has it, and what for.
NAMES = {
    "_trainable_variables": (
        "convmixer_keras/training/optimizer.py",
        averaging_optimizer,
        "each variable is paired with its moving average",
    ),
    "_model_variables_moving_average": (
        "convmixer_keras/training/optimizer.py",
        averaging_optimizer,
        "a checkpoint holds the moving averages",
    ),
    "_maybe_symbolic_build": (
        "convmixer_keras/training/step.py",
        compiled_model,
        "metrics are built without strategy.reduce, which fails with several workers (keras issue 20585)",
    ),
    "_symbolic_build": (
        "convmixer_keras/training/step.py",
        compiled_model,
        "metrics are built without strategy.reduce, which fails with several workers (keras issue 20585)",
    ),
    "_loss_tracker": (
        "convmixer_keras/training/step.py",
        compiled_model,
        "the loss that is printed is that of all replicas",
    ),
    "_in_multi_worker_mode": (
        "convmixer_keras/training/step.py",
        lambda: tf.distribute.MirroredStrategy(["CPU:0"]).extended,
        "Keras asks it, and then takes metrics of shape (1,)",
    ),
    "_open_with_requests": (
        "convmixer_keras/data/sources.py",
        lambda: importlib.import_module("tensorflow_datasets.core.download.downloader"),
        "a download of tensorflow-datasets from a silent server ends",
    ),
    "_keras_history": (
        "convmixer_keras/models/structure.py",
        lambda: keras.Input((2,)),
        "a network's graph is walked from its output to its input",
    ),
    "_inbound_nodes": (
        "convmixer_keras/models/structure.py",
        lambda: keras.layers.Dense(2),
        "a network's graph is walked from its output to its input",
    ),
    "_prefer_unique_instance_key": (
        "convmixer_keras/training/distribution.py",
        lambda: cross_device_utils.CollectiveReplicaLauncher,
        "memory does not grow with every exchange between processes",
    ),
    "_cardinality": (
        "convmixer_keras/training/distribution.py",
        distributed_dataset,
        "Keras is told how many steps an epoch has",
    ),
}
MODULES = {
    "tensorflow.python.framework.config": (
        "convmixer_keras/training/process.py",
        "disable_op_determinism",
        "training leaves the process as it found it",
    ),
    "tensorflow.python.distribute": (
        "convmixer_keras/training/distribution.py",
        "cross_device_utils",
        "memory does not grow with every exchange between processes",
    ),
    "tensorflow.python.eager": (
        "convmixer_keras/training/distribution.py",
        "context",
        "a process that waits for one that is gone can stop waiting (abort_collective_ops)",
    ),
    "tensorflow.python.framework.convert_to_constants": (
        "convert/tflite.py",
        "convert_variables_to_constants_v2",
        "the TFLite converter takes a graph without variables several times faster than a saved model",
    ),
}
FILES = [path for folder in ("convmixer_keras", "convert") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("name", NAMES)
def test_is_there(name):
    file, owner, purpose = NAMES[name]
    assert hasattr(owner(), name), f"{name} is gone, on which {file} relies so that {purpose}"


@pytest.mark.parametrize("name", MODULES)
def test_module_is_there(name):
    file, function, purpose = MODULES[name]
    try:
        found = hasattr(importlib.import_module(name), function) or importlib.import_module(
            f"{name}.{function}"
        )
    except ImportError:
        found = False
    assert found, f"{name}.{function} is gone, on which {file} relies so that {purpose}"


@pytest.mark.parametrize("name", [*NAMES, *MODULES])
def test_is_used_in_one_file(name):
    used = [p for p in FILES if re.search(rf"(?<!\w){re.escape(name)}\b", p.read_text())]
    expected = (NAMES.get(name) or MODULES[name])[0]
    assert [path.relative_to(ROOT).as_posix() for path in used] == [expected]


def test_there_are_no_others():
    """No file imports from inside Keras or TensorFlow, or reads a private attribute of theirs."""
    ours = {"_replace", "_asdict", "_fields", "_get_help_string", "_exit"}  # Of the standard library.
    for path in FILES:
        tree = ast.parse(path.read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        defined |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name) and node.value.id == "self"
        }  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
                assert node.attr in defined | ours | set(NAMES), f"{path}:{node.lineno} reads {node.attr}"
            if isinstance(node, ast.ImportFrom) and re.match(
                r"tensorflow\.python|keras\.src", node.module or ""
            ):
                assert node.module in MODULES, f"{path}:{node.lineno} imports from {node.module}"
