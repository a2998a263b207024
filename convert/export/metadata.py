"""TFLite metadata: what MediaPipe Tasks and other libraries on phones read in a `.tflite` file.

Written from the published schema, mediapipe/tasks/metadata/metadata_schema.fbs. The published writers do not
install on Python 3.12 (tflite-support) or cannot be imported (MediaPipe after 0.10.21).
"""

import flatbuffers
import numpy as np

from convmixer_keras.convert.export import runtime

ENTRY = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_PARSER = "1.0.0"  # The oldest that knows all of the tables below.

# The fields of each table, in the schema's order. A union is two fields, the kind and the value.
_FIELDS = {
    "ModelMetadata": (
        "name", "description", "version", "subgraph_metadata", "author", "license", "associated_files",
        "min_parser_version",
    ),
    "SubGraphMetadata": ("name", "description", "input_tensor_metadata", "output_tensor_metadata"),
    "TensorMetadata": (
        "name", "description", "dimension_names", "content", "process_units", "stats", "associated_files",
    ),
    "Content": ("content_properties_type", "content_properties"),
    "FeatureProperties": (),
    "ImageProperties": ("color_space",),
    "ProcessUnit": ("options_type", "options"),
    "NormalizationOptions": ("mean", "std"),
    "Stats": ("max", "min"),
    "AssociatedFile": ("name", "description", "type"),
}  # fmt: skip
_COLOUR = {1: np.int8(2), 3: np.int8(1)}  # GRAYSCALE, RGB
_KIND = {"FeatureProperties": np.uint8(1), "ImageProperties": np.uint8(2)}
_NORMALIZATION_OPTIONS = np.uint8(1)
_TENSOR_AXIS_LABELS = np.int8(2)

_SCORES = {
    "probabilities": "Probability of each class, 0..1",
    "logits": "Score of each class; their softmax are probabilities",
    "features": "What the network has found, before any class",
}


def metadata(*, name, description, input_shape, takes_pixels, output_name, labels, author=None, license=None):
    """Returns the metadata of a file with one image as its input, as bytes.

    Args:
        name: Of the model.
        description: One sentence about it.
        input_shape: (height, width, channels) of an image.
        takes_pixels: Whether the input is raw pixels 0..255. Otherwise the libraries refuse the file, as
            they know only one mean and deviation for all channels.
        output_name: "probabilities", "logits" or "features".
        labels: Whether the names of the classes travel in the file.
        author, license: Of the model, or None.
    """
    channels = input_shape[-1]
    image = {"name": "image", "description": f"{'x'.join(map(str, input_shape))} image"}
    if channels in _COLOUR:
        image["content"] = _content("ImageProperties", color_space=_COLOUR[channels])
    if takes_pixels:
        image["description"] += ", raw pixels 0..255"
        image["process_units"] = [_normalization(mean=0.0, std=1.0)]
        image["stats"] = ("Stats", {"max": [255.0], "min": [0.0]})
    scores = {
        "name": output_name,
        "description": _SCORES[output_name],
        "content": _content("FeatureProperties"),
    }
    if labels:
        file = {
            "name": runtime.LABELS_ENTRY,
            "description": "Name of each class",
            "type": _TENSOR_AXIS_LABELS,
        }
        scores["associated_files"] = [("AssociatedFile", file)]
    graph = {
        "input_tensor_metadata": [("TensorMetadata", image)],
        "output_tensor_metadata": [("TensorMetadata", scores)],
    }
    model = {
        "name": name,
        "description": description,
        "subgraph_metadata": [("SubGraphMetadata", graph)],
        "author": author,
        "license": license,
        "min_parser_version": _PARSER,
    }
    builder = flatbuffers.Builder()
    builder.Finish(_add_value(builder, ("ModelMetadata", model)), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _content(kind, **fields):
    return "Content", {"content_properties_type": _KIND[kind], "content_properties": (kind, fields)}


def _normalization(mean, std):
    """What is done to a pixel before the network: (pixel - mean) / std."""
    options = ("NormalizationOptions", {"mean": [mean], "std": [std]})
    return "ProcessUnit", {"options_type": _NORMALIZATION_OPTIONS, "options": options}


def _add_value(builder, value):
    """Adds a string, a list of floats, a table (kind, fields) or a list of tables; returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, list) and isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    if isinstance(value, list):
        places = [_add_value(builder, table) for table in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()
    kind, fields = value
    fields = {name: field for name, field in fields.items() if field is not None}
    # What a table refers to stands before it.
    places = {
        name: _add_value(builder, field)
        for name, field in fields.items()
        if not isinstance(field, np.integer)
    }
    builder.StartObject(len(_FIELDS[kind]))
    for slot, name in enumerate(_FIELDS[kind]):
        if name in places:
            builder.PrependUOffsetTRelativeSlot(slot, places[name], 0)
        elif name in fields:
            builder.PrependUint8Slot(slot, int(fields[name]), 0)
    return builder.EndObject()
