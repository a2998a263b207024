"""The five named builders: the paper's variants under their own names."""

from convmixer_keras import presets, pretrained
from convmixer_keras.models.convmixer import ConvMixer

_DOC = """ConvMixer-{preset.hidden_dim}/{preset.depth} with patch {preset.patch_size}, kernel \
{preset.kernel_size}, {activation}: {preset.parameters:,} parameters, {giga:.2f} G multiply-adds{accuracy}.

The arguments are those of `convmixer_keras.ConvMixer`, with the sizes given, and:

Args:
    include_preprocessing: Whether the model takes raw RGB pixels 0..255 and normalises them itself, with
        the mean and standard deviation of {normalized_for}; otherwise it takes normalised channels.
    weights: {weights}
    input_shape: (height, width, channels), default ({preset.image_size}, {preset.image_size}, 3).
    classes: Number of classes, default {preset.classes}.

Returns:
    A `keras.Model` giving logits, unless `classifier_activation` or `include_top=False` is given.
"""

_IMAGENET = """"imagenet" for the published ones, fetched when first asked for; with another number of
        `classes` or without its top, the model gets the body's alone. Otherwise
        """
_OWN_WEIGHTS = "None for random ones, or the path of a `.weights.h5` or `.keras` file of this network."


def _named_builder(preset):
    def builder(
        *,
        include_preprocessing=False,
        include_top=True,
        weights=None,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=None,
        classifier_activation=None,
        name=preset.name,
    ):
        if input_shape is None and input_tensor is None:
            input_shape = (preset.image_size, preset.image_size, 3)
        if include_top and classes is None:
            classes = preset.classes
        imagenet = isinstance(weights, str) and weights == "imagenet"
        if imagenet:
            pretrained.check_published(preset)
        model = ConvMixer(
            preset.hidden_dim,
            preset.depth,
            preset.kernel_size,
            preset.patch_size,
            activation=preset.activation,
            input_mean=[255 * m for m in preset.mean] if include_preprocessing else None,
            input_std=[255 * s for s in preset.std] if include_preprocessing else None,
            include_top=include_top,
            weights=None if imagenet else weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name,
        )
        if imagenet:
            pretrained.load_imagenet_weights(model, preset)
        return model

    top1 = "" if preset.top1 is None else f", published ImageNet top-1 {preset.top1} %"
    builder.__name__ = builder.__qualname__ = preset.name
    published = preset.name in pretrained.RELEASE_FILES
    builder.__doc__ = _DOC.format(
        preset=preset,
        activation=preset.activation.upper().replace("RELU", "ReLU"),
        giga=preset.multiply_adds / 1e9,
        accuracy=top1,
        weights=(_IMAGENET if published else "") + _OWN_WEIGHTS,
        normalized_for="CIFAR-10" if preset.mean == presets.CIFAR10_MEAN else "ImageNet",
    )
    return builder


ConvMixer1536_20 = _named_builder(presets.CONVMIXER_1536_20)
ConvMixer768_32 = _named_builder(presets.CONVMIXER_768_32)
ConvMixer1024_20 = _named_builder(presets.CONVMIXER_1024_20)
ConvMixer1536_20_P14 = _named_builder(presets.CONVMIXER_1536_20_P14)
ConvMixer256_8 = _named_builder(presets.CONVMIXER_256_8)
