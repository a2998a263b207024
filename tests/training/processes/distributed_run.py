"""One process of a small run on digits, for `test_distribution.py`.

usage: distributed_run.py STRATEGY REPLICAS OUTPUT RECIPE [SEEN]

Trains the digits recipe with the changes RECIPE (JSON) over so many logical CPUs, and prints the history as
JSON. RECIPE may also hold the settings steps_per_execution, rematerialize and init_from. SEEN is a file for
the images that this process trains on, in their order.
"""

import dataclasses
import json
import sys

import numpy as np
import tensorflow as tf

from convmixer_keras import recipes
from convmixer_keras.data import pipeline as data
from convmixer_keras.training import trainer as training
from convmixer_keras.training.run.settings import Settings


def main(strategy, replicas, output, changes, seen=None):
    if int(replicas) > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * int(replicas)
        tf.config.set_logical_device_configuration(cpu, devices)
    changes = json.loads(changes)
    names = {"steps_per_execution", "rematerialize", "init_from"} & changes.keys()
    settings = Settings(strategy=strategy, peer_timeout=60, **{name: changes.pop(name) for name in names})
    recipe = dataclasses.replace(recipes.DIGITS, **changes)
    images = record_images() if seen else None
    history = training.train(recipe, output, settings)
    print(json.dumps(history))
    if seen:
        np.save(seen, np.stack(images))


def record_images():
    """Returns a list that gets every batch of training images."""
    images, load = [], data.load

    def note(batch):
        images.append(batch.copy())
        return batch

    def recording_load(*arguments, **options):
        loaded = load(*arguments, **options)

        def recorded(batch, labels):
            return tf.ensure_shape(tf.numpy_function(note, [batch], batch.dtype), batch.shape), labels

        return loaded._replace(train=loaded.train.map(recorded))

    data.load = recording_load
    return images


if __name__ == "__main__":
    main(*sys.argv[1:])
