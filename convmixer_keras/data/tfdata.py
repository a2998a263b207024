"""What `tf.data` lacks: an order that depends only on a seed, an approximate number of batches, a check."""

import tensorflow as tf

from convmixer_keras.utils.errors import InputError

# For functions that a data set maps: AutoGraph would read through five seconds of code, and change nothing.
as_written = tf.autograph.experimental.do_not_convert


def map_batch(function, batch):
    """Maps the elements of a batch, tensors (n, ...), one after the other, and stacks what comes out."""
    elements = tf.data.Dataset.from_tensor_slices(batch)
    return elements.map(function).batch(tf.shape(batch[0], tf.int64)[0]).get_single_element()


def prefetched(batches, steps):
    """Prepares the next batches ahead, and tells Keras how many a full pass has, where that is known."""
    if steps is not None:
        # A resumed pass has fewer, on which `assert_cardinality` would fail.
        of_unknown_length = batches.take(0).filter(lambda *_: True).repeat()
        batches = batches.concatenate(of_unknown_length).take(steps)
    options = tf.data.Options()
    # Each worker reads its own share already.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Images and batches are processed in parallel already; threads within one of them only get in the way.
    options.threading.max_intra_op_parallelism = 1
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def shuffle(examples, buffer, seed, epoch):
    """Shuffles by (seed, epoch) and nothing else.

    `Dataset.shuffle` also mixes in TensorFlow's global seed, and where that is 0 refuses an epoch that is a
    tensor.
    """
    spec = examples.element_spec
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(examples),
        buffer_size=tf.cast(buffer, tf.int64),
        seed=tf.cast(seed, tf.int64),
        seed2=epoch + 1,  # Two zeros would stand for no seed.
        output_types=[component.dtype for component in tf.nest.flatten(spec)],
        output_shapes=[component.shape for component in tf.nest.flatten(spec)],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, spec)


def checked_labels(labels, classes):
    """Returns labels (n,) as int64; one outside of 0..classes - 1 fails, and `bad_images.named` says so."""
    labels = tf.cast(labels, tf.int64)
    wrong = tf.boolean_mask(labels, (labels < 0) | (labels >= classes))
    message = [f"labels must be from 0 to {classes - 1}, got", wrong[:1]]
    right = tf.debugging.Assert(tf.equal(tf.size(wrong), 0), message)
    with tf.control_dependencies([right]):
        return tf.identity(labels)


def check_examples(spec, channels):
    """Raises InputError unless a data set of this spec has one image and one label in each element."""
    if isinstance(spec, tuple) and len(spec) == 2 and all(isinstance(s, tf.TensorSpec) for s in spec):
        image, label = spec
        pixels = image.dtype == tf.uint8 and image.shape.is_compatible_with((None, None, channels))
        contents = image.dtype == tf.string and image.shape.is_compatible_with(())
        if (pixels or contents) and label.dtype.is_integer and label.shape.is_compatible_with(()):
            return
    raise InputError(
        f"examples must be (image, label), not in batches: uint8 (height, width, {channels}) or the bytes of "
        f"a file, and an integer; got {spec}"
    )
