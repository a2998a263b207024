import dataclasses
import os
import zipfile

import keras
import numpy as np
import pytest

import convmixer_keras as ck
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import saving


@pytest.fixture
def model():
    return ck.ConvMixer(4, 1, 3, 2, classes=3, input_shape=(4, 4, 1))


def test_class_names_travel_with_a_model(model, tmp_path):
    path = tmp_path / "m.keras"
    names = ["chat", "Hündchen", "\N{OWL}"]
    ck.save_model(model, path, names)
    assert ck.load_class_names(path) == names
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype(np.float32)
    loaded = keras.saving.load_model(path)  # plain Keras reads it
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    ck.save_model(model, path)
    assert ck.load_class_names(path) is None


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    with saving.written_whole(path) as temporary, open(temporary, "w") as file:
        file.write("first")

    def fail():
        with saving.written_whole(path) as temporary, open(temporary, "w") as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["file"]


def test_new_files_have_the_usual_permissions(tmp_path):
    with open(tmp_path / "usual", "w"):
        pass
    with saving.written_whole(tmp_path / "ours") as temporary, open(temporary, "w"):
        pass
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "usual").st_mode


def test_errors(model, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.keras, got .*m\.h5"):
        ck.save_model(model, tmp_path / "m.h5")
    with pytest.raises(ValueError, match=r"cannot write .*m\.keras: no such file or directory"):
        ck.save_model(model, tmp_path / "nowhere" / "m.keras")
    with pytest.raises(ValueError, match="there is no file"):
        ck.load_class_names(tmp_path / "m.keras")
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(ValueError, match=r"text\.keras is not a \.keras file"):
        ck.load_class_names(tmp_path / "text.keras")
    with pytest.raises(ValueError, match=r"text\.keras is not a zip archive"):
        saving.load_model(tmp_path / "text.keras")
    with pytest.raises(ValueError, match="there is no file"):
        saving.load_model(tmp_path / "nothing.keras")


@pytest.mark.parametrize("names", ["abc", range(3), ["a", "b", 3]])
def test_class_names_are_texts(names, model, tmp_path):
    with pytest.raises(ValueError, match="class_names must be a list of texts"):
        ck.save_model(model, tmp_path / "m.keras", names)
    assert not os.listdir(tmp_path)


def test_pixels_are_not_normalised_twice(tmp_path):
    record = Preprocessing(4, 3, mean=0.5, std=0.2)
    pixels = ck.ConvMixer(4, 1, 3, 2, classes=3, input_shape=(4, 4, 3), input_mean=120, input_std=60)
    with pytest.raises(ValueError, match="the model normalises its input itself: leave out mean and std"):
        ck.save_model(pixels, tmp_path / "m.keras", preprocessing=record)
    ck.save_model(
        pixels, tmp_path / "m.keras", preprocessing=dataclasses.replace(record, mean=None, std=None)
    )
    with zipfile.ZipFile(tmp_path / "m.keras", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("preprocessing.json", record.to_json())
    with pytest.raises(ValueError, match="normalises by itself, and its preprocessing has mean and std"):
        ck.inference.load(tmp_path / "m.keras")
