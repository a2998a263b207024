"""A trained model opened to be shown photographs, whatever file it is from."""

import dataclasses
import itertools
import os
import threading
from collections.abc import Iterable

import numpy as np
from PIL import Image

from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.class_names import is_same_class
from convmixer_keras.images.preprocessing import Photo, Preprocessing
from convmixer_keras.images.scores import Scores, best, scores_of, softmax
from convmixer_keras.utils.errors import InputError, arg

BATCH = 32
_PHOTOGRAPHS = (str, bytes, os.PathLike, Image.Image)  # What `Preprocessing` takes besides arrays.


class Predictor:
    """A trained model, opened. Its methods may be called from several threads.

    Attributes:
        source: What was opened: the path of a file, or a builder's name.
        input_shape: (height, width, channels) of the images.
        classes: How many scores it gives for an image; None where it gives features.
        class_names: The name of each class, in the order of the scores; its number where the file names
            none. None where it gives features.
        has_names: Whether the file names its classes.
        takes_pixels: Whether it takes raw pixels 0..255, and not channels that are normalised already; None
            where the file does not say.
        output_name: "probabilities", "logits" or "features": what the network itself gives. None where the
            file does not say; its outputs then have to be probabilities.
        preprocessing: The `Preprocessing` that `read` uses. Where neither the file nor the caller says one, a
            default, with a note on standard error.
    """

    def __init__(
        self,
        source,
        run,
        input_shape,
        output_shape,
        output_name,
        class_names,
        takes_pixels,
        preprocessing,
        step=0.0,
    ):
        """Keeps what a file says, and the function `run` from images to outputs, both float32 batches.

        `output_shape` is that of one image's outputs, and `step` the one between two neighbouring numbers in
        them, 0 for float32.
        """
        self.source, self.input_shape, self.takes_pixels = source, tuple(input_shape), takes_pixels
        self.output_name = output_name
        self._run, self._output_shape, self._step = run, tuple(output_shape), step
        self.classes = self.class_names = None
        self.has_names = class_names is not None
        if output_name != "features":
            self.classes = int(output_shape[-1])
            self.class_names = class_names if self.has_names else [str(i) for i in range(self.classes)]
            if len(self.class_names) != self.classes:
                raise InputError(
                    f"{source} has {self.classes} classes, and the names of {len(self.class_names)}"
                )
        self._preprocessing = preprocessing
        self._lock = threading.Lock()

    def __repr__(self):
        return f"<{type(self).__name__} of {self.source}: {self.description}>"

    @property
    def description(self) -> str:
        """What it takes and gives, in one line: size, crop and orientation, and the classes."""
        takes = self._preprocessing or f"{'x'.join(map(str, self.input_shape))}, preparation not recorded"
        if self.classes is None:
            return f"{takes} -> features {self._output_shape}"
        names = ""
        if self.has_names:
            names = f": {', '.join(self.class_names[:3])}{', ...' if self.classes > 3 else ''}"
        return f"{takes} -> {self.output_name or 'scores'} of {self.classes} classes{names}"

    @property
    def preprocessing(self) -> Preprocessing:
        if self._preprocessing is None:
            if self.takes_pixels is False:
                raise InputError(
                    f"{self.source} takes normalised channels, and does not say which: give "
                    f"{arg('mean')} and {arg('std')}"
                )
            *size, channels = self.input_shape
            self._preprocessing = preprocessing_module.assumed(self.source, size, channels)
        return self._preprocessing

    def read(self, photo: Photo) -> np.ndarray:
        """Returns a photograph, such as the path of its file, as the model takes it: float32 (h, w, c)."""
        return self.preprocessing(photo)

    def picture(self, photo: Photo) -> np.ndarray:
        """Returns a photograph as the model sees it, for people: pixels 0..255 whatever the model takes."""
        return dataclasses.replace(self.preprocessing, mean=None, std=None)(photo)

    def predict(self, images: Photo | Iterable[Photo]) -> np.ndarray:
        """Returns the probabilities of images (images, classes), or their features: float32.

        Args:
            images: One image or a sequence of them. Paths of image files, their bytes and Pillow images go
                through `preprocessing`. Arrays are taken as they are, of exactly `input_shape`, a batch of
                them included: raw pixels 0..255 in any numeric dtype, or normalised channels where the model
                takes those.

        Raises:
            InputError: If an image cannot be read or has another shape, if the model gives NaN or infinity,
                or if what it gives are no probabilities, and the file does not say that they are logits.
        """
        outputs = self.outputs(images)
        if self.output_name == "logits":
            one = outputs.shape[-1] == 1  # Of two classes, the other of which has the logit 0.
            return softmax(np.pad(outputs, ((0, 0), (0, 1))))[:, :1] if one else softmax(outputs)
        if self.output_name is None and not self._are_probabilities(outputs):
            raise InputError(
                f"{self.source} does not say what its scores are, and they do not add up to 1 as "
                f"probabilities do: {arg('scores')} must say logits or probabilities"
            )
        if self.output_name == "probabilities" and not np.all((outputs >= 0) & (outputs <= 1 + 1e-3)):
            raise InputError(
                f"{self.source} gives scores from {outputs.min():.4g} to {outputs.max():.4g}, and "
                "probabilities are 0 to 1"
            )
        return outputs

    def outputs(self, images: Photo | Iterable[Photo]) -> np.ndarray:
        """Returns what the network itself gives for images, as `output_name` says; the rest as `predict`."""
        if isinstance(images, _PHOTOGRAPHS) or (isinstance(images, np.ndarray) and images.ndim == 3):
            images = [images]
        pixels = map(self._pixels, images)
        found = [np.zeros((0, *self._output_shape), np.float32)]
        while batch := list(itertools.islice(pixels, BATCH)):
            with self._lock:
                found.append(self._run(np.stack(batch)))
            if not np.isfinite(found[-1]).all():
                raise InputError(f"{self.source} gives NaN or infinity for an image: its weights are damaged")
        return np.concatenate(found)

    def top(self, images: Photo | Iterable[Photo], k: int = 5) -> list[list[tuple[int, str, float]]]:
        """Names the likeliest classes of each image.

        Args:
            images: As in `predict`.
            k: How many to name.

        Returns:
            For each image a list of (index, name, probability), the highest first; of equal ones the first
            class first.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        self.check_names_classes()
        probabilities = self.predict(images)
        return [
            [(int(i), self.class_names[i], float(row[i])) for i in numbers]
            for row, numbers in zip(probabilities, best(probabilities, k), strict=True)
        ]

    def evaluate(self, batches: Iterable[tuple]) -> Scores:
        """Returns the `Scores` on batches: pairs of images, as in `predict`, and integer labels (n,)."""
        return scores_of((self.predict(images), labels) for images, labels in batches)

    def check_fits(self, dataset, class_names, channels):
        """Raises InputError if the model does not take a data set's images, or does not tell its classes."""
        self.check_names_classes()
        if self.classes == 1:
            raise InputError(f"{self.source} gives a single score, of which no accuracy can be told")
        taken = self.input_shape[-1]
        if taken != channels:
            raise InputError(f"{self.source} takes {taken} channels, but images of {dataset} have {channels}")
        if self.classes != len(class_names):
            raise InputError(
                f"{self.source} knows {self.classes} classes, but {dataset} has {len(class_names)}"
            )
        for known, there in zip(self.class_names, class_names, strict=True):
            if self.has_names and not is_same_class(known, there):
                raise InputError(f"{self.source} knows a class {known!r} where {dataset} has {there!r}")

    def check_names_classes(self):
        """Raises InputError for a model that gives features in place of a score for each class."""
        if self.classes is None:
            raise InputError(f"{self.source} gives features, and no score for each class")

    def _pixels(self, image):
        if isinstance(image, _PHOTOGRAPHS):
            return self.read(image)
        image = np.asarray(image)
        if image.shape != self.input_shape or image.dtype.kind not in "uif" or not np.isfinite(image).all():
            raise InputError(
                f"an image must be finite numbers of the shape {self.input_shape}, got {image.dtype} "
                f"{image.shape}"
            )
        return image.astype(np.float32)

    def _are_probabilities(self, outputs):
        # Rounded to steps, as in an int8 file, they add up to about 1 only.
        slack = 1e-3 + outputs.shape[-1] * self._step / 2
        return outputs.min(initial=0) >= 0 and np.all(np.abs(outputs.sum(-1) - 1) <= slack)


def choose_preprocessing(source, shape, takes_pixels, recorded, default=None, changes=None):
    """Returns the `Preprocessing` for a model, or None where nobody says one.

    Args:
        source: The model's name, for messages.
        shape: (height, width, channels) that it takes, None for sides that it leaves open.
        takes_pixels: As in `Predictor`.
        recorded: The `Preprocessing` that its file records, or None.
        default: Function from `shape` and `takes_pixels` to what a recipe says, to take where the file
            records none; or None.
        changes: Dictionary of fields to take in place of what was recorded.

    Raises:
        InputError: If the result does not fit the model.
    """
    changes = changes or {}
    normalizes = changes.get("mean") is not None or changes.get("std") is not None
    if takes_pixels and normalizes:
        raise InputError(f"{source} normalises by itself: {arg('mean')} and {arg('std')} are not for it")
    record = recorded
    if record is None and default:
        record = default(shape, takes_pixels)
        preprocessing_module.note_assumed(source, record, "the recipe's ")
    if record is None:
        if not changes or (takes_pixels is False and not normalizes):
            return None
        height, width = (side or usual for side, usual in zip(shape[:2], Preprocessing.size, strict=True))
        record = Preprocessing((height, width), shape[-1])
    record = dataclasses.replace(record, **changes)
    if takes_pixels and record.mean is not None:
        raise InputError(
            f"{source} normalises by itself, and its preprocessing has mean and std, which would do it again"
        )
    if any(side not in (None, made) for side, made in zip(shape, record.shape, strict=True)):
        raise InputError(
            f"{source} takes images of the shape {tuple(shape)}, and its preprocessing gives {record.shape}"
        )
    return record
