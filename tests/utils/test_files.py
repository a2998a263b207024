"""Names of files to write, links, and how much a file may unpack to."""

import errno
import os
import zipfile

import pytest
from conftest import on_linux

from convmixer_keras.utils import limits
from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.files import check_output, check_room, written_whole


def write(path, text):
    with written_whole(path) as temporary, open(temporary, "w") as file:
        file.write(text)


def test_what_a_link_points_to_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real").write_text("old")
    (tmp_path / "link").symlink_to("disk/real")
    (tmp_path / "over").symlink_to("link")
    write(tmp_path / "over", "new")
    assert (tmp_path / "disk" / "real").read_text() == "new"
    assert os.readlink(tmp_path / "over") == "link"
    (tmp_path / "dangling").symlink_to("disk/later")
    write(tmp_path / "dangling", "there")
    assert (tmp_path / "disk" / "later").read_text() == "there"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "disk", "link", "over"]


def test_names_that_cannot_be_written(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (
        ("loop", "not a regular file"),
        ("fifo", "not a regular file"),
        ("x" * 300, "too long"),
    ):
        with pytest.raises(InputError, match=reason):
            write(tmp_path / name, "")
    with pytest.raises(InputError, match="only local folders"):
        write("gs://bucket/file", "")
    with pytest.raises(InputError, match="must not be empty"):
        write("", "")


@on_linux
def test_a_full_disk_is_said_of_the_file_that_is_written(tmp_path):
    """Also by a block within another, which writes to the temporary path of that."""

    def fill():
        with written_whole(tmp_path / "m.keras") as outer, written_whole(outer) as inner:
            write(inner, "")
            with open("/dev/full", "w") as disk:
                disk.write("x")

    with pytest.raises(Failure, match=rf"^cannot write {tmp_path}/m.keras: no space left on device$"):
        fill()
    assert os.listdir(tmp_path) == []
    with pytest.raises(Failure, match=r"^cannot unpack m.keras: file too large$"):
        check_room(OSError(errno.EFBIG, ""), "m.keras")
    check_room(OSError("of a damaged file"), "m.keras")


def test_no_output_is_an_input(tmp_path):
    (tmp_path / "m.keras").write_text("a model")
    (tmp_path / "m.tflite").symlink_to("m.keras")
    check_output(str(tmp_path / "new.tflite"), ".tflite", [tmp_path / "m.keras"])
    with pytest.raises(InputError, match=r"must end in \.tflite"):
        check_output(str(tmp_path / "m.keras"), (".tflite",))
    with pytest.raises(InputError, match=r"m\.tflite is the input .*m\.keras"):
        check_output(str(tmp_path / "m.tflite"), (".tflite",), [tmp_path / "m.keras"])


def test_what_a_zip_archive_claims(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**29))
    with pytest.raises(InputError, match=r"would take 537 MB when unpacked: over the limit of 279 MB"):
        limits.check_zip(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="not a zip archive, or is damaged"):
        limits.check_zip(path)
