"""The metadata of exported files, read from its bytes by hand as the schema lays them out."""

import struct

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from small_models import build

from convmixer_keras.convert.export import metadata, tflite


class Table:
    """A table of a flatbuffer: `table[slot]` is where a field is, or None."""

    def __init__(self, content, at):
        self.content, self.at = content, at
        vtable = at - self.number("<i", at)
        self.slots = struct.unpack_from(f"<{(self.number('<H', vtable) - 4) // 2}H", content, vtable + 4)

    def number(self, form, at):
        return struct.unpack_from(form, self.content, at)[0]

    def __getitem__(self, slot):
        offset = self.slots[slot] if slot < len(self.slots) else 0
        return self.at + offset if offset else None

    def byte(self, slot):
        return self.content[self[slot]]

    def pointed(self, slot):
        return self[slot] + self.number("<I", self[slot])

    def table(self, slot):
        return Table(self.content, self.pointed(slot))

    def string(self, slot):
        at = self.pointed(slot)
        return self.content[at + 4 : at + 4 + self.number("<I", at)].decode()

    def floats(self, slot):
        at = self.pointed(slot)
        return list(struct.unpack_from(f"<{self.number('<I', at)}f", self.content, at + 4))

    def only(self, slot):
        """The one table in a list of tables."""
        at = self.pointed(slot)
        assert self.number("<I", at) == 1
        return Table(self.content, at + 4 + self.number("<I", at + 4))


def read(path):
    """Returns the metadata's root, and what it says of input and output."""
    model = schema.Model.GetRootAs(path.read_bytes())
    entries = {model.Metadata(i).Name(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    content = model.Buffers(entries[b"TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert content[4:8] == b"M001"
    root = Table(content, struct.unpack_from("<I", content)[0])
    graph = root.only(3)
    return root, graph.only(2), graph.only(3)


def test_a_classifier(tmp_path):
    model = build(depth=1, kernel_size=3, input_mean=120.0, input_std=60.0, name="flowers")
    tflite.export(model, tmp_path / "m.tflite", labels="abcde", author="A. Nöther", license="MIT")
    root, image, scores = read(tmp_path / "m.tflite")
    assert [root.string(slot) for slot in (0, 4, 5, 7)] == ["flowers", "A. Nöther", "MIT", "1.0.0"]
    assert "float32" in root.string(1)

    assert image.string(0) == "image"
    content, step, stats = image.table(3), image.only(4), image.table(5)
    assert content.byte(0) == 2  # ImageProperties
    assert content.table(1).byte(0) == 1  # RGB
    assert step.byte(0) == 1  # NormalizationOptions
    assert (step.table(1).floats(0), step.table(1).floats(1)) == ([0.0], [1.0])
    assert (stats.floats(0), stats.floats(1)) == ([255.0], [0.0])

    assert scores.string(0) == "probabilities"
    assert scores.table(3).byte(0) == 1  # FeatureProperties
    file = scores.only(6)
    assert file.string(0) == "labels.txt"
    assert file.byte(2) == 2  # TENSOR_AXIS_LABELS


def test_normalised_channels_and_features(tmp_path):
    model = build(depth=1, kernel_size=3, include_top=False, pooling="avg", input_shape=(9, 9, 1))
    tflite.export(model, tmp_path / "m.tflite")
    root, image, features = read(tmp_path / "m.tflite")
    assert root[4] is None  # No author.
    assert image.table(3).table(1).byte(0) == 2  # GRAYSCALE
    # Nothing says how to normalise, so that libraries refuse the file and do not give it pixels.
    assert image[4] is None
    assert features.string(0) == "features"
    assert features[6] is None


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_a_map_of_features_has_none(mode, tmp_path):
    """So that MediaPipe refuses it: it would open a file of bytes even without metadata."""
    model = build(depth=1, kernel_size=3, include_top=False, input_mean=120.0, input_std=60.0)
    images = np.zeros((1, *model.input_shape[1:]), np.uint8)
    tflite.export(model, tmp_path / "m.tflite", mode, calibration=images)
    model = schema.Model.GetRootAs((tmp_path / "m.tflite").read_bytes())
    assert metadata.ENTRY.encode() not in {model.Metadata(i).Name() for i in range(model.MetadataLength())}
    graph = model.Subgraphs(0)
    assert graph.Tensors(graph.Inputs(0)).Type() == schema.TensorType.FLOAT32
