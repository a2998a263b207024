"""How a photograph becomes what a network takes: one record, which travels in every model file.

Only Pillow and NumPy, so that a device can use it; `transforms` has the same inside tf.data.
"""

import dataclasses
import json
import math
import numbers
import os
import sys

import numpy as np
from PIL import Image

from convmixer_keras.images import reading
from convmixer_keras.images.reading import MOST_PIXELS, ORIENTATIONS
from convmixer_keras.utils import limits
from convmixer_keras.utils.errors import InputError, arg
from convmixer_keras.utils.fields import setting, settings_of
from convmixer_keras.utils.files import Path
from convmixer_keras.utils.text import one_line

Photo = str | bytes | os.PathLike[str] | Image.Image | np.ndarray  # What can be made an input.
ENTRY = "preprocessing.json"  # In a `.keras` file, and in the zip archive at the end of a `.tflite` file.
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")
_GROUP = "preparation of photographs, overriding what the model file says"  # Of the flags.
_FOR_CHANNELS = "0..1, for a model that takes normalised channels"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes what a network takes.

    A call does it: decode, convert to RGB or grey, turn, resize, crop the centre, and normalise where the
    network takes normalised channels. Sides and corner are rounded as torchvision and timm round them, and
    Pillow resizes.

    Attributes:
        size: (height, width) of the result in pixels; one number stands for a square.
        channels: 3 for RGB or 1 for grey.
        crop_pct: Share of the resized image's side that the centre crop keeps, over 0 to 1.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest"; all but the last antialias.
        orientation: "exif" to turn photographs as their EXIF data says, "stored" to leave them.
        mean, std: For a network that takes normalised channels, per channel in units of 0..1. None, both,
            for one that takes raw pixels 0..255.

    Raises:
        InputError: If a value is out of its range.
    """

    size: int | tuple[int, int] = (224, 224)
    channels: int = 3
    crop_pct: float = setting(1.0, _GROUP, "share of the resized side that the centre crop keeps, 0..1")
    interpolation: str = setting("bicubic", _GROUP, "filter of the resize", choices=INTERPOLATIONS)
    orientation: str = setting(
        "exif", _GROUP, "turn photographs as their EXIF data says, or not", choices=ORIENTATIONS
    )
    mean: tuple[float, ...] | None = setting(None, _GROUP, f"mean of each channel, {_FOR_CHANNELS}")
    std: tuple[float, ...] | None = setting(None, _GROUP, f"deviation of each channel, {_FOR_CHANNELS}")

    def __post_init__(self):
        values = _checked(self)
        for name, value in values.items():
            object.__setattr__(self, name, value)  # The only way within a frozen dataclass.

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the result."""
        return (*self.size, self.channels)

    def __call__(self, image: Photo) -> np.ndarray:
        """Makes the network's input of a photograph.

        Args:
            image: The path of an image file, its bytes, a Pillow image, or an array (height, width) or
                (height, width, channels) of numbers 0..255, which are rounded.

        Returns:
            A float32 array (height, width, channels): whole numbers 0..255, or normalised channels.

        Raises:
            InputError: If it cannot be read as an image, or is an array of another form.
        """
        if not isinstance(image, (str, bytes, os.PathLike, Image.Image)):
            image = _from_array(image)
        image = reading.read(image, self.channels, self.orientation)
        return self.normalized(self.resized(image))

    def resized(self, image: Image.Image) -> np.ndarray:
        """Resizes a Pillow image and crops its centre; returns uint8 (height, width, channels)."""
        height, width = self.size
        least_height, least_width = math.floor(height / self.crop_pct), math.floor(width / self.crop_pct)
        # One side gets the least length, and the longer one is truncated.
        if image.width * least_height >= image.height * least_width:
            whole_height, whole_width = least_height, image.width * least_height // image.height
        else:
            whole_height, whole_width = image.height * least_width // image.width, least_width
        # round(), as torchvision's CenterCrop: a half goes to the even number.
        top, left = round((whole_height - height) / 2), round((whole_width - width) / 2)
        method = Image.Resampling[self.interpolation.upper()]
        if whole_height * whole_width > MOST_PIXELS:  # Of a long strip, only what the crop shows.
            down, across = image.height / whole_height, image.width / whole_width
            box = (left * across, top * down, (left + width) * across, (top + height) * down)
            image = image.resize((width, height), method, box)
        else:
            # Across first: within one call, the order and so the rounding depend on Pillow's version.
            image = image.resize((whole_width, image.height), method)
            image = image.resize((whole_width, whole_height), method)
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(image, np.uint8).reshape(self.shape)

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """Returns pixels 0..255 (..., channels) as the network takes them, float32."""
        pixels = np.asarray(pixels, np.float32)
        if self.mean is None:
            return pixels
        return (pixels / 255 - np.float32(self.mean)) / np.float32(self.std)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def __str__(self):
        height, width = self.size
        turned = "turned as EXIF says" if self.orientation == "exif" else "as stored"
        text = f"{height}x{width}, crop_pct {self.crop_pct:g}, {self.interpolation}, {turned}"
        return text if self.mean is None else f"{text}, normalised"


def stated_by(record):
    """Returns the settings of `Preprocessing` that a `Recipe` or `Preset` has as well, as a dictionary."""
    return {name: getattr(record, name) for name in settings_of(Preprocessing) if hasattr(record, name)}


def _checked(record):
    """Returns a record's fields in their proper types, or raises InputError."""
    size = record.size if isinstance(record.size, (tuple, list)) else (record.size, record.size)
    if len(size) != 2 or not all(_is_whole(side) and side > 0 for side in size):
        raise InputError(
            f"{arg('size')} must be a positive integer or two of them, (height, width), got {record.size!r}"
        )
    if math.prod(size) > MOST_PIXELS:
        raise InputError(f"{arg('size')} must be at most {MOST_PIXELS:,} pixels, got {record.size!r}")
    if not _is_whole(record.channels) or record.channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, as image files have them, got {record.channels!r}")
    if not _is_number(record.crop_pct) or not 0 < record.crop_pct <= 1:
        raise InputError(f"{arg('crop_pct')} must be over 0 and at most 1, got {record.crop_pct!r}")
    for name, field in settings_of(record).items():
        value, allowed = getattr(record, name), field.metadata["choices"]
        if allowed and value not in allowed:
            raise InputError(f"{arg(name)} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    if (record.mean is None) != (record.std is None):
        raise InputError(
            f"{arg('mean')} and {arg('std')} must be given together, got {record.mean!r} and {record.std!r}"
        )
    mean, std = (_per_channel(name, getattr(record, name), record.channels) for name in ("mean", "std"))
    if std is not None and min(std) <= 0:
        raise InputError(f"{arg('std')} must be positive, got {record.std!r}")
    return {
        "size": tuple(int(side) for side in size),
        "channels": int(record.channels),
        "crop_pct": float(record.crop_pct),
        "mean": mean,
        "std": std,
    }


def _per_channel(name, values, channels):
    if values is None:
        return None
    values = values if isinstance(values, (tuple, list, np.ndarray)) else (values,)
    if not all(_is_number(value) and 0 <= value <= 1 for value in values):
        raise InputError(f"{arg(name)} must be in units of 0..1, got {', '.join(map(str, values))}")
    if len(values) not in (1, channels):
        raise InputError(
            f"{arg(name)} must be one number or {channels}, one for each channel, got {values!r}"
        )
    return tuple(float(value) for value in (values if len(values) == channels else [*values] * channels))


def _is_whole(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _from_array(array):
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or 0 in array.shape:
        raise InputError(f"an image must be (height, width) or (height, width, 1 or 3), got {array.shape}")
    if array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise InputError(f"an image must be finite numbers 0..255, got {array.dtype}")
    return Image.fromarray(np.clip(np.round(array), 0, 255).astype(np.uint8))


def from_json(text, path):
    """Returns the `Preprocessing` that `to_json` wrote; raises InputError, which names `path`, if damaged."""
    try:
        return Preprocessing(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} holds a damaged {ENTRY}: {error}") from None


def of(path: Path) -> Preprocessing | None:
    """Reads the `Preprocessing` that a model file carries.

    Args:
        path: A `.keras` or `.tflite` file of this package.

    Returns:
        The `Preprocessing`, or None where the file does not say.

    Raises:
        InputError: If there is no such file, or the record in it is damaged.
    """
    path = os.fspath(path)
    entries = limits.read_entries(path, ENTRY)
    if entries is None and not path.endswith(".tflite"):  # Another program's has no archive at its end.
        raise InputError(f"{path} is not a .keras file, or is damaged")
    return from_json(entries[ENTRY], path) if entries and ENTRY in entries else None


def assumed(path, size, channels):
    """Returns the default `Preprocessing` for a file that records none, with a note on standard error."""
    record = Preprocessing(size=size, channels=channels)
    note_assumed(path, record)
    return record


def note_assumed(path, record, source=""):
    """Says on standard error which `Preprocessing` is taken where a file records none, and from where."""
    names = ", ".join(arg(name) for name in settings_of(record) if name not in ("mean", "std"))
    print(
        f"note: {one_line(path)} does not record its preprocessing; using {source}{record} (override with "
        f"{names})",
        file=sys.stderr,
    )


def published(preset, takes_pixels):
    """Returns timm's `Preprocessing` of a `Preset`, which normalises for a model that takes no pixels."""
    stated = stated_by(preset) | ({"mean": None, "std": None} if takes_pixels else {})
    return Preprocessing(preset.image_size, len(preset.mean), **stated)


def load_image(
    path: Path,
    size: int | tuple[int, int] = 224,
    crop_pct: float = 0.96,
    interpolation: str = "bicubic",
    orientation: str = "stored",
) -> np.ndarray:
    """Reads an image file as raw pixels, by default as the published ImageNet weights are evaluated.

    Args:
        path: An image file of any format that Pillow reads.
        size, crop_pct, interpolation, orientation: As in `Preprocessing`.

    Returns:
        A float32 array (height, width, 3), RGB, whole numbers 0..255: raw pixels, not normalised.

    Raises:
        InputError: If the file is missing or not a readable image, or an argument is out of its range.
    """
    return Preprocessing(size, 3, crop_pct, interpolation, orientation)(path)
