import json
import subprocess
import sys

import pytest
import tensorflow as tf

from convmixer_keras import distribution

MIRRORED = """
import dataclasses, json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from convmixer_keras import recipes, training
small = {"hidden_dim": 8, "depth": 1, "epochs": 4, "batch_size": 128, "ema_momentum": 0.5}
recipe = dataclasses.replace(recipes.DIGITS, **small)
history = training.train(recipe, sys.argv[1], strategy="mirrored", verbose=0)
print(json.dumps(history))
"""


def test_mirrored_training_runs_on_two_devices(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED, str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    history = json.loads(done.stdout.splitlines()[-1])
    assert history[-1]["loss"] < history[0]["loss"]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["strategy"], config["replicas"]) == ("MirroredStrategy", 2)


def test_one_device_is_the_default_strategy():
    assert distribution.choose_strategy("one") is tf.distribute.get_strategy()
    if len(tf.config.list_logical_devices("GPU")) < 2:
        assert distribution.choose_strategy("auto") is tf.distribute.get_strategy()


def test_unknown_strategy():
    with pytest.raises(ValueError, match="strategy must be one of 'auto', 'one', 'mirrored', got 'two'"):
        distribution.choose_strategy("two")
