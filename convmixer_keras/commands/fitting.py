"""A recipe fitted to what there is: a trained body to start from, a folder of a few photographs."""

import dataclasses
import itertools
import math
import multiprocessing
import os
from concurrent import futures

from convmixer_keras.commands import flags
from convmixer_keras.images.listing import images_in
from convmixer_keras.utils.text import one_line


def with_body(recipe, source, overrides, apart=False):
    """Returns a recipe with the network and the preparation of a trained body, and says what it is.

    Flags override them, and a line says so. `apart` looks at the body in a process of its own: TensorFlow
    cannot join several processes once it has run in them.
    """
    from convmixer_keras.training.step.network import facts_of_body

    if apart:
        with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            found = alone.submit(facts_of_body, source).result()
    else:
        found = facts_of_body(source)
    source = one_line(source)
    own = ("image_size", "crop_pct", "interpolation", "mean", "std")
    stated = [f"{name} {flags.as_given(found[name])}" for name in own if name in found]
    missing = [name for name in own if name not in found]
    unknown = f"; it does not say {', '.join(missing)}: those are the recipe's" if missing else ""
    print(f"body {source}: {', '.join(stated) or 'a file of weights'}{unknown}")
    for name, value in overrides.items():
        if name in found and flags.as_given(found[name]) != flags.as_given(value):
            theirs = flags.as_given(found[name])
            print(f"{name} is {flags.as_given(value)} by its flag; {source} has {theirs}")
    return dataclasses.replace(recipe, **{**found, **overrides})


def with_batch_for_few(recipe, bad=0):
    """Returns a recipe whose batches are not larger than a folder of a few photographs without `bad` ones."""
    from convmixer_keras.data.datasets import open_source
    from convmixer_keras.images.splits import training_split

    folder, many = os.path.expanduser(recipe.dataset), 10 * recipe.batch_size
    if not os.path.isdir(folder) or sum(1 for _ in itertools.islice(images_in(folder), many)) == many:
        return recipe
    source = open_source(recipe)
    # Not from what it reads, for which TensorFlow would run: see `with_body`.
    parts = source.parts(training_split(source, recipe))
    images = max(1, sum(stop - start for _, start, stop in parts) - bad)
    if images >= recipe.batch_size:
        return recipe
    # A power of two, which several devices can share.
    return dataclasses.replace(recipe, batch_size=2 ** int(math.log2(images)))
