"""Names inside Keras, TensorFlow and tensorflow-datasets that this package uses: one file each, still there.

An overridden method counts: if it is renamed there, it is silently no longer called.

When one of these tests fails after an upgrade, the message says what the name was used for.
"""

import ast
import importlib
import inspect
import pkgutil
import re

import keras
import pytest
import tensorflow as tf
from conftest import ROOT
from tensorflow.python.distribute import cross_device_utils
from tensorflow.python.eager import context

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


def downloader():
    return importlib.import_module("tensorflow_datasets.core.download.downloader")


# Each name: the file that uses or overrides it, what has it, and what for.
NAMES = {
    "_trainable_variables": (
        "convmixer_keras/training/step/optimizer.py",
        averaging_optimizer,
        "each variable is paired with its moving average",
    ),
    "_model_variables_moving_average": (
        "convmixer_keras/training/step/optimizer.py",
        averaging_optimizer,
        "a checkpoint holds the moving averages",
    ),
    "_all_reduce_sum_gradients": (
        "convmixer_keras/training/step/optimizer.py",
        lambda: keras.optimizers.AdamW,
        "gradients that the training step has summed are not summed again",
    ),
    "_update_model_variables_moving_average": (
        "convmixer_keras/training/step/optimizer.py",
        lambda: keras.optimizers.AdamW,
        "moving averages soon forget the initial weights, and BatchNorm's statistics are averaged",
    ),
    "_tf_swap_variables": (
        "convmixer_keras/training/step/averaging.py",
        lambda: keras.callbacks.SwapEMAWeights,
        "validation sees averaged statistics, and training continues from exactly the weights it had",
    ),
    "_tf_finalize_ema_values": (
        "convmixer_keras/training/step/averaging.py",
        lambda: keras.callbacks.SwapEMAWeights,
        "the last checkpoint holds both the weights and their averages",
    ),
    "_maybe_symbolic_build": (
        "convmixer_keras/training/step/training_model.py",
        compiled_model,
        "metrics are built without strategy.reduce, which fails with several workers (keras issue 20585)",
    ),
    "_symbolic_build": (
        "convmixer_keras/training/step/training_model.py",
        compiled_model,
        "metrics are built without strategy.reduce, which fails with several workers (keras issue 20585)",
    ),
    "_loss_tracker": (
        "convmixer_keras/training/step/training_model.py",
        compiled_model,
        "the loss that is printed is that of all replicas",
    ),
    "_in_multi_worker_mode": (
        "convmixer_keras/training/step/training_model.py",
        lambda: tf.distribute.MirroredStrategy(["CPU:0"]).extended,
        "Keras asks it, and then takes metrics of shape (1,)",
    ),
    "_open_with_requests": (
        "convmixer_keras/data/named.py",
        downloader,
        "a download of tensorflow-datasets from a silent server ends",
    ),
    "MAX_RETRIES": (
        "convmixer_keras/data/named.py",
        downloader,
        "a download of tensorflow-datasets gives up after four attempts, not eleven",
    ),
    "_keras_history": (
        "convmixer_keras/models/graph.py",
        lambda: keras.Input((2,)),
        "a network's graph is walked from its output to its input",
    ),
    "_inbound_nodes": (
        "convmixer_keras/models/graph.py",
        lambda: keras.layers.Dense(2),
        "a network's graph is walked from its output to its input",
    ),
    "_run_through_graph": (
        "convert/weights/keras_graph.py",
        compiled_model,
        "a model within another is rewritten layer by layer",
    ),
    "_prefer_unique_instance_key": (
        "convmixer_keras/training/processes/distribution.py",
        lambda: cross_device_utils.CollectiveReplicaLauncher,
        "memory does not grow with every exchange between processes",
    ),
    "report_error_to_cluster": (
        "convmixer_keras/training/processes/peers.py",
        context.context,
        "every process of a run says why one of them ended",
    ),
    "_cardinality": (
        "convmixer_keras/training/processes/distribution.py",
        distributed_dataset,
        "Keras is told how many steps an epoch has",
    ),
}
# Each module inside TensorFlow or tensorflow-datasets: the file that imports from it, what, and what for.
MODULES = {
    "tensorflow.python.framework.config": (
        "convmixer_keras/training/run/global_state.py",
        {"disable_op_determinism", "is_op_determinism_enabled"},
        "training leaves the process as it found it",
    ),
    "tensorflow.python.distribute": (
        "convmixer_keras/training/processes/distribution.py",
        {"cross_device_utils"},
        "memory does not grow with every exchange between processes",
    ),
    "tensorflow.python.eager": (
        "convmixer_keras/training/processes/peers.py",
        {"context"},
        "every process of a run says why one of them ended",
    ),
    "tensorflow.python.framework.convert_to_constants": (
        "convert/export/tflite.py",
        {"convert_variables_to_constants_v2"},
        "the TFLite converter takes a graph without variables several times faster than a saved model",
    ),
    "tensorflow.lite.python.convert": (
        "convert/export/flatbuffer.py",
        {"mlir_sparsify"},
        "a runtime that is too old for an operation refuses it",
    ),
    "tensorflow_datasets.core.download": (
        "convmixer_keras/data/named.py",
        {"download_manager", "downloader"},
        "a download of tensorflow-datasets from a silent server ends, and one that was changed is told",
    ),
}
INSIDE = r"(tensorflow\.python|tensorflow\.lite|keras\.src|tensorflow_datasets\.core)\b"
# Of the standard library: documented, or as old as argparse.
STANDARD = {"_replace", "_asdict", "_fields", "_exit"}
STANDARD |= {"_get_help_string", "_check_value", "_actions", "_option_string_actions"}
FILES = [path for folder in ("convmixer_keras", "convert") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("name", NAMES)
def test_is_there(name):
    file, owner, purpose = NAMES[name]
    assert hasattr(owner(), name), f"{name} is gone, on which {file} relies so that {purpose}"


@pytest.mark.parametrize("name", MODULES)
def test_module_is_there(name):
    file, contents, purpose = MODULES[name]
    for content in contents:
        try:
            found = hasattr(importlib.import_module(name), content) or importlib.import_module(
                f"{name}.{content}"
            )
        except ImportError:
            found = False
        assert found, f"{name}.{content} is gone, on which {file} relies so that {purpose}"


@pytest.mark.parametrize("name", [*NAMES, *MODULES])
def test_is_used_in_one_file(name):
    used = [p for p in FILES if re.search(rf"(?<!\w){re.escape(name)}\b", p.read_text())]
    expected = (NAMES.get(name) or MODULES[name])[0]
    assert [path.relative_to(ROOT).as_posix() for path in used] == [expected]


@pytest.fixture(scope="module")
def overridden():
    """The private names of other packages' classes that a class of this package overrides."""
    found = set()
    for package in ("convmixer_keras", "convmixer_keras.convert"):
        folders = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(folders, f"{package}."):
            classes = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
            for _, cls in classes:
                if cls.__module__ == module.name:
                    bases = [
                        base for base in cls.__mro__ if not base.__module__.startswith("convmixer_keras")
                    ]
                    found |= set(vars(cls)) & {name for base in bases for name in vars(base)}
    return {name for name in found if is_private(name)}


def is_private(name):
    return re.match(r"_[^_]", name)


def test_an_override_is_seen(overridden):
    assert {"_tf_swap_variables", "_all_reduce_sum_gradients", "_get_help_string"} <= overridden


def test_there_are_no_others(overridden):
    """No file imports from inside another package, or reads or overrides a private attribute of it."""
    for name in overridden - STANDARD:
        assert name in NAMES, f"{name} is overridden"
    for path in FILES:
        tree = ast.parse(path.read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        defined |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name) and node.value.id == "self"
        }  # fmt: skip
        known = (defined - overridden) | STANDARD | set(NAMES)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                assert node.attr in known, f"{path}:{node.lineno} reads {node.attr}"
            if isinstance(node, ast.Import):
                assert not any(re.match(INSIDE, alias.name) for alias in node.names), f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and re.match(INSIDE, node.module or ""):
                where = f"{path}:{node.lineno} imports from {node.module}"
                assert node.module in MODULES, where
                assert {alias.name for alias in node.names} <= MODULES[node.module][1], where
