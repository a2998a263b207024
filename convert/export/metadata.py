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

# The fields of each table, in the schema's order. A union is two fields, the kind of table and the table.
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
_KINDS = {"FeatureProperties": 1, "ImageProperties": 2, "NormalizationOptions": 1}  # In their unions.
_COLOUR = {1: 2, 3: 1}  # GRAYSCALE, RGB
_TENSOR_AXIS_LABELS = 2

_SCORES = {
    "probabilities": "Probability of each class, 0..1",
    "logits": "Score of each class; their softmax are probabilities",
    "features": "What the network has found, before any class",
}


def metadata(*, name, description, input_shape, takes_pixels, output_name, labels, author=None, license=None):
    """Returns the metadata of a file with one image as its input, as bytes.

    Name, description, author and license are the model's; `labels` says whether the names of the classes
    travel in the file. Where it does not take raw pixels the libraries refuse it, as they know only one mean
    and deviation for all channels.
    """
    image = {"name": "image", "description": f"{'x'.join(map(str, input_shape))} image"}
    if colour := _COLOUR.get(input_shape[-1]):
        properties = ("ImageProperties", {"color_space": colour})
        image["content"] = ("Content", {"content_properties": properties})
    if takes_pixels:
        image["description"] += ", raw pixels 0..255"
        # What is done to a pixel before the network: (pixel - mean) / std.
        unchanged = ("NormalizationOptions", {"mean": [0.0], "std": [1.0]})
        image["process_units"] = [("ProcessUnit", {"options": unchanged})]
        image["stats"] = ("Stats", {"max": [255.0], "min": [0.0]})
    scores = {
        "name": output_name,
        "description": _SCORES[output_name],
        "content": ("Content", {"content_properties": ("FeatureProperties", {})}),
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
    table, fields = value
    places, numbers = {}, {}
    for name, field in fields.items():
        if isinstance(field, int):
            numbers[name] = field
        elif field is not None:  # What a table refers to stands before it.
            places[name] = _add_value(builder, field)
            if isinstance(field, tuple) and field[0] in _KINDS:
                numbers[f"{name}_type"] = _KINDS[field[0]]
    builder.StartObject(len(_FIELDS[table]))
    for slot, name in enumerate(_FIELDS[table]):
        if name in places:
            builder.PrependUOffsetTRelativeSlot(slot, places[name], 0)
        elif name in numbers:
            builder.PrependUint8Slot(slot, numbers[name], 0)
    return builder.EndObject()
