"""What happens between the images of a batch, and random erasing."""

import tensorflow as tf

from convmixer_keras.data.draws import (
    OF_CENTER,
    OF_CHOICE,
    OF_NOISE,
    OF_SHARE,
    corner_within,
    rectangles,
    seed_of,
)


def mixing(recipe):
    """Builds MixUp or CutMix with timm's draws; where a recipe has both, each batch gets one at random.

    One of the two, one share and one rectangle hold for the whole batch, which is mixed with itself in
    reverse order. (keras-cv's layers draw a share for each image, and a partner that may be the image
    itself.)

    Returns:
        A function from images of any dtype, labels (batch, classes), epochs and positions (batch,) to mixed
        float32 images and labels. Labels are mixed in the proportion of the pixels that are seen.
    """

    def with_mixup(images, labels, seed):
        kept = _beta(recipe.mixup_alpha, seed(OF_SHARE))
        return tf.round(_mixed(tf.cast(images, tf.float32), kept)), _mixed(labels, kept)

    def with_cutmix(images, labels, seed):
        height, width = images.shape[1:3]
        cut = tf.sqrt(1 - _beta(recipe.cutmix_alpha, seed(OF_SHARE)))
        center = tf.random.stateless_uniform((2,), seed(OF_CENTER))
        top, bottom = _interval(center[0], cut, height)
        left, right = _interval(center[1], cut, width)
        images = _pasted(images, _partners(images[:, top:bottom, left:right]), top, left, axis=1)
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return tf.cast(images, tf.float32), _mixed(labels, tf.cast(kept, tf.float32))

    def mix(images, labels, epoch, position):
        batch = position[0] // recipe.batch_size  # The same for every worker that has a share of it.

        def seed(use):
            return seed_of(recipe, epoch[0], batch, use)

        if not recipe.cutmix_alpha:
            return with_mixup(images, labels, seed)
        if not recipe.mixup_alpha:
            return with_cutmix(images, labels, seed)
        return tf.cond(
            tf.random.stateless_uniform((), seed(OF_CHOICE)) < 0.5,
            lambda: with_mixup(images, labels, seed),
            lambda: with_cutmix(images, labels, seed),
        )

    return mix


def _partners(batch):
    """What each element is mixed with: the batch in reverse order."""
    return tf.gather(batch, tf.range(tf.shape(batch)[0])[::-1])


def _mixed(batch, kept):
    return kept * batch + (1 - kept) * _partners(batch)


def _beta(alpha, seed):
    """A draw from Beta(alpha, alpha)."""
    # In float64: a small alpha draws numbers that float32 rounds to 0, both of them at times.
    one, other = tf.unstack(tf.random.stateless_gamma((2,), seed, alpha, dtype=tf.float64))
    return tf.cast(one / (one + other), tf.float32)


def _interval(center, share, side):
    """Begin and end of a share of 0..side around a random centre, in whole pixels, cut off at the ends."""
    center, length = (tf.cast(tf.floor(value * side), tf.int32) for value in (center, share))
    return tf.maximum(center - length // 2, 0), tf.minimum(center + (length + 1) // 2, side)


def _pasted(images, patch, top, left, axis):
    """Returns images with a patch pasted over them; `axis` is that of their rows."""
    bottom, right = top + tf.shape(patch)[axis], left + tf.shape(patch)[axis + 1]
    # tf.concat of slices copies long runs of memory; tf.where picks single numbers, which is slower.
    rows, columns = ((slice(None),) * i for i in (axis, axis + 1))
    beside = images[(*rows, slice(top, bottom))]
    middle = tf.concat(
        [beside[(*columns, slice(left))], patch, beside[(*columns, slice(right, None))]], axis + 1
    )
    above, below = images[(*rows, slice(top))], images[(*rows, slice(bottom, None))]
    return tf.ensure_shape(tf.concat([above, middle, below], axis), images.shape)


def random_erasing(recipe):
    """Builds timm's random erasing, "pixel" mode: a rectangle of noise in a share of the images.

    2 to 33 % of an image's area, aspect 0.3..1/0.3, inside the image; standard normal noise in the units in
    which the model normalises. (keras-cv's RandomCutout draws rectangles that lie half outside, and noise for
    every pixel of every image, which it stretches to the range of the batch.)

    Returns:
        A function from float32 images (batch, height, width, channels), uniform draws (batch, 1 + RECTANGLE),
        epochs and positions (batch,) to images.
    """

    def erase(images, draws, epoch, position):
        size = tf.cast(tf.shape(images)[1:3], tf.float32)
        shapes = rectangles(size, (0.02, 1 / 3), (0.3, 1 / 0.3), draws[:, 1:])
        fits = tf.reduce_all(shapes < size, -1)
        erased = (draws[:, 0] < recipe.erasing_probability) & tf.reduce_any(fits, -1)
        extent = tf.gather(shapes, tf.argmax(fits, -1), batch_dims=1)
        corner = tf.cast(corner_within(size - extent, draws[:, -2:]), tf.int32)
        extent = tf.cast(extent, tf.int32)

        def one(of):
            image, epoch, position, corner, extent = of
            seed = seed_of(recipe, epoch, position, OF_NOISE)
            noise = tf.random.stateless_normal((extent[0], extent[1], images.shape[-1]), seed)
            return _pasted(image, 255 * (noise * recipe.std + recipe.mean), corner[0], corner[1], axis=0)

        rows = tf.where(erased)
        chosen = [tf.gather_nd(values, rows) for values in (images, epoch, position, corner, extent)]
        changed = tf.map_fn(one, chosen, fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32))
        return tf.tensor_scatter_nd_update(images, rows, changed)

    return erase
