"""The zip archive behind the network in a `.tflite` file, for what a runtime does not need to know."""

import io
import json
import zipfile

from convmixer_keras.convert import runtime
from convmixer_keras.data import preprocessing as preprocessing_module


def written(labels, takes_pixels, preprocessing=None, *, offset):
    """Returns the archive as bytes, to stand `offset` bytes into the file."""
    buffer = io.BytesIO()
    # Written at the offset that it will have, so that every reader finds its entries.
    buffer.write(b"\0" * offset)
    with zipfile.ZipFile(buffer, "a") as entries:
        entries.writestr(runtime.INPUT_ENTRY, json.dumps({"takes_pixels": takes_pixels}))
        if preprocessing is not None:
            entries.writestr(preprocessing_module.ENTRY, preprocessing.to_json())
        if labels is not None:
            entries.writestr(runtime.LABELS_ENTRY, "".join(f"{label}\n" for label in labels))
    return buffer.getvalue()[offset:]
