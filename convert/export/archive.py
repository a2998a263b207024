"""The zip archive behind the network in a `.tflite` file, for class names and preprocessing."""

import io
import json
import zipfile

from convmixer_keras.convert.export import runtime
from convmixer_keras.images import preprocessing as preprocessing_module


def to_bytes(labels, takes_pixels, preprocessing, network):
    """Returns the archive as bytes, to stand behind the bytes of the network."""
    buffer = io.BytesIO()
    # Written at the offset that it will have, so that every reader finds its entries.
    buffer.write(b"\0" * len(network))
    with zipfile.ZipFile(buffer, "a") as entries:
        record = {"takes_pixels": takes_pixels, "network": runtime.checksum(network)}
        entries.writestr(runtime.INPUT_ENTRY, json.dumps(record))
        if preprocessing is not None:
            entries.writestr(preprocessing_module.ENTRY, preprocessing.to_json())
        if labels is not None:
            entries.writestr(runtime.LABELS_ENTRY, "".join(f"{label}\n" for label in labels))
    return buffer.getvalue()[len(network) :]
