#!/usr/bin/env python3
"""ConvMixer in 253 characters of Keras, after the authors' 280 characters of PyTorch.

  python examples/tweet.py
  python examples/tweet.py --picture tweet.png

Prints the code with its number of characters, builds ConvMixer-256/8 from it, and shows that with the same
weights it gives the same logits as this package's builder. As in the original, the imports do not count, and
h, d, k, p, n are width, depth, kernel, patch and classes. It starts from Keras' initial weights; the builder
starts from PyTorch's, with which the published networks were trained. Took 9 s on 4 cores of an AMD EPYC,
most of them the import of TensorFlow.
"""

from convmixer_keras.utils import command_line, streams

IMPORTS = """
from keras import *
from keras.activations import *
from keras.layers import *
"""

TWEET = """
def ConvMixer(h,d,k,p,n):
 A=lambda l,x:BatchNormalization(-1,.9,1e-5)(gelu(l(x)))
 i=Input((None,None,3));x=A(Conv2D(h,p,p),i)
 for _ in range(d):x=A(Conv2D(h,1),x+A(DepthwiseConv2D(k,1,'same'),x))
 return Model(i,Dense(n)(GlobalAveragePooling2D()(x)))
""".strip()


def main():
    parser = command_line.parser(__doc__)
    parser.add_argument("--picture", type=command_line.picture, metavar="FILE", help="draw the code")
    arguments = parser.parse_args()
    streams.quiet_start()
    import numpy as np

    import convmixer_keras as ck

    sizes = {"h": 256, "d": 8, "k": 5, "p": 2, "n": 10}
    short = build(**sizes)
    ours = ck.ConvMixer(256, 8, kernel_size=5, patch_size=2, classes=10, input_shape=(None, None, 3))
    short.set_weights(ours.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    difference = np.abs(short.predict(images, verbose=0) - ours.predict(images, verbose=0)).max()
    print(f"{TWEET}\n\n{len(TWEET)} characters, {short.count_params():,} parameters")
    print(f"largest difference from the builder's logits, with the same weights: {difference:.1e}")
    if arguments.picture:
        draw(arguments.picture)


def draw(path):
    from convmixer_keras.utils import extras

    extras.require("matplotlib")
    from matplotlib.figure import Figure

    from convmixer_keras.utils.files import written_whole

    figure = Figure(figsize=(7.2, 1.6), dpi=120)
    figure.text(0.02, 0.5, TWEET, family="monospace", fontsize=11, va="center", linespacing=1.6)
    with written_whole(path) as temporary:
        figure.savefig(temporary)
    print(f"wrote {path}")


def build(**sizes):
    """Returns what the tweet's ConvMixer gives for h, d, k, p, n."""
    names = {}
    exec(IMPORTS + TWEET, names)
    return names["ConvMixer"](**sizes)


if __name__ == "__main__":
    command_line.run(main)
