"""Image files as Pillow reads them: one way for every reader, with or without TensorFlow."""

import contextlib
import io
import os
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import check_file

with contextlib.suppress(ImportError):  # Plugins, where they are installed.
    import pillow_heif

    pillow_heif.register_heif_opener()
with contextlib.suppress(ImportError):
    import pillow_avif  # noqa: F401

ORIENTATIONS = ("exif", "stored")
# The largest image that is decoded: 360 MB in memory. The largest phone cameras take 108 million pixels.
MOST_PIXELS = 120_000_000
_FAR_TOO_LARGE = f"it has over {MOST_PIXELS:,} pixels, the most that are allowed"  # Of Pillow's own limit.
# What has to be done to the stored pixels for an EXIF orientation; 1 and anything unknown is nothing.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# An orientation stands behind one of these: EXIF in JPEG, PNG and WebP, EXIF as text, XMP.
EXIF_MARKS = (b"Exif\0\0", b"eXIf", b"EXIF", b"Raw profile type", b"tiff:Orientation", b"XML:com.adobe.xmp")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # Brands of such files.
# Of whole files, by Pillow's name of the format; MPO is a phone's JPEG with several pictures.
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}

# Pillow warns before MOST_PIXELS is checked, of damaged EXIF data, and of formats that it was built without:
# each would be a second line beside our error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
warnings.filterwarnings("ignore", "image file could not be identified")


def read(source, channels=3, orientation="stored"):
    """Reads an image file, or the first picture of one that has several.

    Transparency is left out, not blended, as Pillow's `convert("RGB")` does. Of 16-bit samples the upper
    eight bits are used. JPEG files are decoded in full, however small the result will be: decoding a smaller
    version (Pillow's `draft`) gives other pixels.

    Args:
        source: The path of an image file, its bytes, or a Pillow image.
        channels: 3 for RGB or 1 for grey.
        orientation: "exif" to turn and mirror the image as its EXIF data says, "stored" to leave it.

    Returns:
        A Pillow image of mode "RGB" or "L".

    Raises:
        InputError: If the file is missing, not a readable image, or of more than `MOST_PIXELS` pixels.
    """
    with _opened(source) as image:
        image.load()  # Pillow turns a TIFF file by itself, and then forgets its orientation.
        turn = _TURNS.get(_exif_orientation(image)) if orientation == "exif" else None
        if image.mode.startswith("I;16"):  # convert() would make white of everything over 255.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("L" if channels == 1 else "RGB")
        return image if turn is None else image.transpose(turn)


def check(path, whole=False):
    """Raises the InputError of `read`, as far as the header of a file tells, or with `whole` all of it.

    A JPEG or PNG file that does not end as it should is decoded in any case.
    """
    with _opened(path) as image:
        if whole or not _has_its_end(image):
            image.load()


@contextlib.contextmanager
def _opened(source):
    """Gives the Pillow image of a source of `read`; what turns out to be wrong with it is an InputError."""
    if isinstance(source, Image.Image):
        name, file = "the Pillow image", None
    elif isinstance(source, bytes):
        name, file = "the bytes", io.BytesIO(source)
    else:
        name = file = os.fspath(source)
        check_file(name)
    try:
        with contextlib.nullcontext(source) if file is None else Image.open(file) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(
                    f"it has {image.width} x {image.height} pixels, and at most {MOST_PIXELS:,} are allowed"
                )
            yield image
    except Image.DecompressionBombError:
        raise InputError(f"cannot read {name} as an image: {_FAR_TOO_LARGE}") from None
    except UnidentifiedImageError:
        raise InputError(f"cannot read {name} as an image: {_why_unidentified(source)}") from None
    except Exception as error:  # Pillow's readers raise nearly everything on damaged files.
        raise InputError(f"cannot read {name} as an image: {first_line(error)}") from None


def _why_unidentified(source):
    if isinstance(source, bytes):
        head = source[:64]
    else:
        with open(source, "rb") as file:
            head = file.read(64)
    known = Image.registered_extensions()
    if head[4:8] == b"ftyp" and b"avif" in head and ".avif" not in known:
        return "it is an AVIF file, which Pillow reads from version 11.3 on: pip install -U pillow"
    if head[4:8] == b"ftyp" and any(brand in head for brand in _HEIC) and ".heic" not in known:
        return "it is a HEIC file, which Pillow reads with a plugin: pip install pillow-heif"
    return "it is in no format that Pillow reads, or damaged" if head else "it is empty"


def _has_its_end(image):
    end = _ENDS.get(image.format, b"")
    image.fp.seek(-len(end), os.SEEK_END)
    return image.fp.read() == end


def exif_orientation(contents):
    """Returns the EXIF orientation, 1 to 8, of a JPEG or PNG file's bytes; 1 where there is none."""
    # Most files have none, and to search their bytes is faster than to open them.
    if not any(mark in contents for mark in EXIF_MARKS):
        return 1
    try:
        with Image.open(io.BytesIO(contents)) as image:
            return _exif_orientation(image)
    except Exception:  # Decoding fails as well, with the better message.
        return 1


def _exif_orientation(image):
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Damaged EXIF data turns nothing.
        return 1
    return orientation if orientation in _TURNS else 1
