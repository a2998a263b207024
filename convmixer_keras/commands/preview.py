"""`convmixer-train --preview`: a picture of an augmented batch."""

from convmixer_keras.commands import flags
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils import command_line, extras
from convmixer_keras.utils.files import written_whole
from convmixer_keras.utils.text import one_line

PREVIEWED_BATCHES = 8


def preview(arguments, recipe):
    extras.require("matplotlib")
    from convmixer_keras.data import pipeline as data
    from convmixer_keras.utils import figures

    settings = Settings(**flags.given(arguments, Settings))
    checks = {"max_bad_images": settings.max_bad_images, "check_images": settings.check_images}
    batch = data.load(recipe, settings.data_dir, **checks)
    with batch.errors_named():
        images, labels, *_ = most_mixed(batch.train.take(PREVIEWED_BATCHES))
    images, labels = images.numpy()[:32], labels.numpy()[:32]

    def title(label):
        # The two strongest classes: after mixing, an image has two.
        first, second = (-label).argsort()[:2]
        names = [f"{batch.class_names[i][:14]} {label[i]:.2f}" for i in (first, second) if label[i] > 0.02]
        return "\n".join(names)

    with written_whole(arguments.preview) as path:
        figures.image_grid(images, [title(label) for label in labels]).savefig(path)
    print(f"wrote {one_line(arguments.preview)}: {len(images)} augmented images, each under its labels")
    return command_line.DONE


def most_mixed(batches):
    """The batch in which MixUp or CutMix shows best: most of them mix so little that it cannot be seen."""
    return min(batches, key=lambda batch: batch[1].numpy().max(-1).mean())
